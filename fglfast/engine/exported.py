"""What exported networks are: their folder and files, the routes by which runtimes want them, examples of their inputs.

What runs them chooses a `Route`, by what it fuses (ONNX Runtime 1.31, PyTorch 2.13; UNets of sd15, sd21-base, sdxl):

- Its own operator for attention, opset 18: ONNX Runtime's optimiser then finds every normalization and convolution.
  Left to it, it finds no attention in what PyTorch exports at opset 18, no group norm at opset 23, and all of them in
  the old exporter's opset 17 only with NumPy before 2.4 and with the key's product beside the query's.
- Plain products and a softmax, opset 22: TensorRT fuses those itself. Each group norm and each GELU is one operator of
  ONNX, and a convolution may be bfloat16, which neither is so at opset 18. ONNX's own `Attention`, opset 23, TensorRT
  builds only where it has one kernel for it, unless a node says otherwise in an attribute that ONNX does not have: on
  512 channels a head, as in the decoder, it fails (NVIDIA/TensorRT issue 4705).
- Plain, opset 18: ONNX Runtime's TensorRT. ONNX Runtime takes apart the group norms of opset 21.
- OpenVINO's own format, converted from PyTorch without ONNX.
"""

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from fglfast.base.config import Settings
from fglfast.engine.manifest import Key
from fglfast.engine.recipe import Build
from fglfast.generator.shapes import Shapes

# Measured on ONNX Runtime 1.31 and OpenVINO 2026.4: opset 18 runs as fast as 23 or faster on CPU.
OPSET = 18
TEXT, PROJECTION, UNET, DECODER = "text_encoder.onnx", "text_projection.onnx", "unet.onnx", "vae_decoder.onnx"


class Route(Settings):
    """How networks are exported; those by two routes lie in two folders.

    Attributes:
        opset: of ONNX.
        fused: whether attention is one operator that ONNX Runtime alone has.
        precision: of UNet and decoder between inputs and outputs of float32.
        openvino: whether OpenVINO's own format is wanted, plain and in float32, and not ONNX.
    """

    opset: int = OPSET
    fused: bool = False
    precision: str = "float32"
    openvino: bool = False

    def __str__(self) -> str:
        if self.openvino:
            return "OpenVINO"
        return f"ONNX opset {self.opset}, {'fused' if self.fused else 'plain'} attention, {self.precision}"


def export_folder(key: Key, engines: Path) -> Path:
    """Where a model's exported networks lie: beside the engines, named by that of the key which they depend on."""
    own = ("openvino",) if key.versions.get("export") == str(Route(openvino=True)) else ("onnx", "onnxscript")
    depends = ("torch", "diffusers", "transformers", *own, "export")
    versions = {name: key.versions[name] for name in depends if name in key.versions}
    size = key.build.image_size
    plain = Build(backend="export", precision="float32", image_size=size, unet_batch=0, vae_batch=0)
    return engines / f"exported-{Key(weights=key.weights, build=plain, versions=versions, device='any').digest()}"


def example_inputs(shapes: Shapes, batch: int) -> dict[str, dict[str, Tensor]]:
    """Example inputs of each network by file name: what it is exported, compiled, warmed and timed with.

    Numbers as networks see them: a GPU multiplies zeros faster, and rows of zeros have no scale in eight bits.
    """
    numbers = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, *shapes.latent, generator=numbers)
    text = torch.randn(batch, shapes.text_length, shapes.projected_width, generator=numbers)
    step = {"latents": latents, "timestep": torch.full((batch,), 500.0), "text": text}
    return {
        TEXT: {"token_ids": torch.zeros(batch, shapes.tokens, dtype=torch.int64)},
        PROJECTION: {"text": torch.randn(batch, shapes.text_length, shapes.text_width, generator=numbers)},
        UNET: step,
        DECODER: {"latents": latents},
    }


def link(network: Path, engine: Path) -> None:
    """Put an exported network and its weights into an engine's folder too, as the same files on the disk.

    An engine that needs them stays whole when the export is deleted, and engines of one model share their weights.
    """
    for path in network.parent.glob(f"{network.name}*"):
        try:
            os.link(path, engine / path.name)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, engine / path.name)
