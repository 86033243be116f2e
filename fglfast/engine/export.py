"""A generator's four networks to ONNX, only the batch dynamic. Knows nothing of who runs them."""

import logging
import os
import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from fglfast.generator.load import Generator, Shapes

# Measured on ONNX Runtime 1.31 and OpenVINO 2026.4: opset 18 runs as fast as 23 or faster on CPU.
OPSET = 18
EXPORT_BATCH = 2  # the exporter fixes sizes of 0 and 1
TEXT, PROJECTION, UNET, DECODER = "text_encoder.onnx", "text_projection.onnx", "unet.onnx", "vae_decoder.onnx"


def example_inputs(shapes: Shapes, batch: int) -> dict[str, dict[str, Tensor]]:
    """Example inputs of each network by file name: what it is exported, compiled and warmed with."""
    latents = torch.zeros(batch, *shapes.latent)
    return {
        TEXT: {"token_ids": torch.zeros(batch, shapes.tokens, dtype=torch.int64)},
        PROJECTION: {"text": torch.zeros(batch, shapes.text_length, shapes.text_width)},
        UNET: {
            "latents": latents,
            "timestep": torch.full((batch,), 500.0),
            "text": torch.zeros(batch, shapes.text_length, shapes.projected_width),
        },
        DECODER: {"latents": latents},
    }


def export(generator: Generator, shapes: Shapes, folder: Path) -> None:
    """Write the four networks into `folder` as ONNX files; large weights go beside them."""
    networks: dict[str, nn.Module] = {
        TEXT: generator.text,
        PROJECTION: generator.projection,
        UNET: generator.unet,
        DECODER: generator.decoder,
    }
    for name, inputs in example_inputs(shapes, EXPORT_BATCH).items():
        _export_one(networks[name], inputs, folder / name)


def link(network: Path, engine: Path) -> None:
    """Put an exported network and its weights into an engine's folder too, as the same files on the disk.

    An engine that needs them stays whole when the export is deleted, and engines of one model share their weights.
    """
    for path in network.parent.glob(f"{network.name}*"):
        try:
            os.link(path, engine / path.name)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, engine / path.name)


def _export_one(network: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                tuple(inputs.values()),
                path,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=["output"],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                external_data=sum(p.numel() for p in network.parameters()) > 400_000_000,
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
