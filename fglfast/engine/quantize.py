"""Eight-bit integers for OpenVINO, by NNCF's post-training quantization.

Scales are calibrated on the latents that the sampler itself passes through, every timestep of them: the network's
activations change more along a trajectory than between images. SmoothQuant (Xiao et al., arXiv 2211.10438) keeps the
attention blocks' outliers apart. Layers whose rounding moves the output too far stay in float.
"""

import hashlib
import io
import logging
import os
from collections.abc import Iterable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from fglfast.base.files import fill_once, placing
from fglfast.base.machine import cores, processor_name
from fglfast.engine.exported import DECODER, UNET
from fglfast.engine.trajectory import Reference

FILE = "inputs.safetensors"
NETWORK = "network.xml"  # its weights lie beside it
# Any words do for a model that knows many; for one that knows few, some it knows and some it does not.
PROMPTS = (
    *("", "a picture", "the sea", "a man, a tree", "dark", "light striped"),
    *("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
STEPS = 16
CHECKED = 4  # of the calibration inputs, how many judge a layer

Inputs = dict[str, NDArray[np.float32]]


def save_calibration(reference: Reference, folder: Path) -> None:
    """Sample once in float32 and keep every input of UNet and VAE decoder in `folder`."""
    if (folder / FILE).exists():
        return
    run = reference.trajectory(PROMPTS, STEPS, seed=1)
    tensors = {f"{DECODER}/0/latents": run.latents.numpy(), f"{UNET}/all/text": run.projected.numpy()}
    for step, (latents_BCHW, timestep_B, _) in enumerate(run.inputs):
        tensors[f"{UNET}/{step}/latents"] = np.ascontiguousarray(latents_BCHW.numpy())
        tensors[f"{UNET}/{step}/timestep"] = np.ascontiguousarray(timestep_B.numpy())
    with placing(folder / FILE) as unfinished:
        save_file(tensors, unfinished)


def quantized_once(name: str, folder: Path, bound: float) -> Path:
    """Where a quantized network lies, beside the exported one: it takes any batch, and is made once for all of them.

    Of several processes one makes it, others wait. What decides its bits names it; the number of cores does, too:
    sums that they share are rounded otherwise.

    Args:
        name: file of the UNet or of the decoder.
        folder: holds the exported networks and the calibration.
        bound: see `quantized`.
    """
    import openvino

    facts = (version("openvino"), version("nncf"), processor_name(), cores(), bound)
    place = folder / f"{Path(name).stem}-int8-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"

    def make(unfinished: Path) -> None:
        network = openvino.Core().read_model((folder / name).with_suffix(".xml"))
        openvino.save_model(quantized(network, name, folder, bound), unfinished / NETWORK, compress_to_fp16=False)

    fill_once(place, make)
    return place / NETWORK


def quantized(network: Any, name: str, folder: Path, bound: float) -> Any:
    """A network with eight-bit weights and activations.

    Args:
        network: an `openvino.Model` with a dynamic batch.
        name: file of the UNet or of the decoder.
        folder: holds the calibration.
        bound: largest relative error; layers are kept in float until it is met.
    """
    import openvino

    os.environ.setdefault("NNCF_CI", "1")  # its telemetry stays off
    import nncf

    nncf.set_log_level(logging.ERROR)
    inputs = _inputs(folder, name)
    exact = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = _outputs(exact, inputs)

    def score(compiled: Any, checked: Iterable[Inputs]) -> tuple[float, None]:
        actual = _outputs(compiled, list(checked))
        return 1.0 - max(_relative_error(one, other) for one, other in zip(actual, judged, strict=True)), None

    step = max(1, len(inputs) // CHECKED)
    judged = expected[::step]
    with redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize_with_accuracy_control(
            network,
            calibration_dataset=nncf.Dataset(inputs),
            validation_dataset=nncf.Dataset(inputs[::step]),
            validation_fn=score,
            max_drop=bound,
            subset_size=len(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
        )


def _inputs(folder: Path, name: str) -> list[Inputs]:
    steps: dict[str, Inputs] = {}
    for key, tensor in load_file(folder / FILE).items():
        part, step, argument = key.split("/")
        if part == name:
            steps.setdefault(step, {})[argument] = tensor
    shared = steps.pop("all", {})
    return [steps[step] | shared for step in sorted(steps, key=int)]


def _outputs(compiled: Any, inputs: list[Inputs]) -> list[NDArray[np.float32]]:
    return [compiled(values)[0].copy() for values in inputs]


def _relative_error(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-12))
