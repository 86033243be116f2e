"""Count the floating-point operations of the float32 model without its weights."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from fglfast.engine.exported import DECODER, PROJECTION, UNET, example_inputs
from fglfast.generator.blocks import load_blocks, segment
from fglfast.generator.load import DecoderPart, blank_networks, split_unet
from fglfast.generator.shapes import Shapes
from fglfast.lab.bench.records import Operations
from fglfast.lab.bench.work import CLASSES
from fglfast.sampler.schedule import Schedule
from fglfast.training.model import build_model


def count_operations(model: Path, shapes: Shapes, schedule: Schedule) -> Operations:
    """Operations of one row of the UNet (at timestep 500, where one is measured), of the decoder, and of one image.

    The modules are built on torch's meta device: no weights, no arithmetic. There attention is made of matrix
    products, which the counter sees; the CPU's fused attention it counts as nothing (torch 2.13).
    """
    blocks = load_blocks(model)
    row = [_count_row(folder, shapes) for folder in blocks.folders(model)]
    inputs = example_inputs(shapes, 1)
    decoded = count(DecoderPart(blank_networks(model)[1]), *inputs[DECODER].values())
    steps = sum(rows * row[segment(timestep, blocks.boundaries)] for timestep, rows in schedule.rows())
    measured = segment(float(inputs[UNET]["timestep"]), blocks.boundaries)
    return Operations(unet=row[measured], decoder=decoded, image=steps + decoded)


def _count_row(model: Path, shapes: Shapes) -> int:
    """Operations of one row of a UNet, as the plain model has it: keys and values of the text at every step."""
    part, projection = split_unet(*blank_networks(model))
    inputs = example_inputs(replace(shapes, projected_width=projection.width), 1)
    return count(part, *inputs[UNET].values()) + count(projection, *inputs[PROJECTION].values())


@torch.no_grad()
def count(module: nn.Module, *inputs: Tensor) -> int:
    """Operations of one forward pass: two for each multiply-add of a convolution or matrix product."""
    module.eval().to("meta")
    with FlopCounterMode(display=False) as counter:
        module(*(tensor.to("meta") for tensor in inputs))
    return int(counter.get_total_flops())


def count_training(arch: str, side: int) -> int:
    """Operations of forward and backward pass of a global model, one image."""
    rows = 2  # batch normalisation refuses one
    with torch.device("meta"):
        model = build_model(arch, CLASSES).train()
        images_B3SS, labels_B = torch.zeros(rows, 3, side, side), torch.zeros(rows, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            cross_entropy(model(pixel_values=images_B3SS).logits, labels_B).backward()
    return int(counter.get_total_flops()) // rows
