"""One pass of a network as the sampler makes it: what is timed, wherever an engine is."""

from functools import partial

from fglfast.base.timing import Run, interleaved
from fglfast.engine.exported import DECODER, PROJECTION, UNET, example_inputs
from fglfast.engine.networks import Networks
from fglfast.generator.shapes import Shapes

ROUNDS = 3


def unet_pass(networks: Networks, shapes: Shapes, batch: int) -> Run:
    """A pass of so many rows; their text is projected before, and lies where the network reads it."""
    inputs = example_inputs(shapes, batch)
    text_BLE = networks.project(inputs[PROJECTION]["text"])
    return partial(networks.denoise, inputs[UNET]["latents"], inputs[UNET]["timestep"], text_BLE)


def decoder_pass(networks: Networks, shapes: Shapes, batch: int) -> Run:
    """A pass of the VAE's decoder."""
    return partial(networks.decode, example_inputs(shapes, batch)[DECODER]["latents"])


def seconds_of(networks: Networks, shapes: Shapes, batch: int, rounds: int = ROUNDS) -> float:
    """Median seconds of one UNet pass of so many rows, after one to warm up."""
    return interleaved({"pass": unet_pass(networks, shapes, batch)}, rounds)["pass"].seconds
