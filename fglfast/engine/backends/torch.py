"""PyTorch eager, channels last: the backend that is always there. Knows nothing of ONNX."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fglfast.engine.backends import Backend, Build
from fglfast.engine.networks import Networks, in_chunks
from fglfast.generator.load import Shapes, load_generator


class TorchBackend(Backend):
    """Runs the modules as they are; channels last is worth about a third on CPU convolutions."""

    packages: tuple[str, ...] = ("torch",)
    extra = "cpu"
    needs_onnx = False

    def compile(self, build: Build, shapes: Shapes, onnx: Path, engine: Path) -> None:
        """Nothing to compile."""

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Load the modules onto the GPU when there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        generator = load_generator(model, device)
        return Networks(
            encode=_function(generator.text, device),
            denoise=in_chunks(_function(generator.unet, device), build.unet_batch),
            decode=in_chunks(_function(generator.decoder, device), build.vae_batch),
        )


def _function(module: nn.Module, device: str) -> Callable[..., Tensor]:
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run(*inputs: Tensor) -> Tensor:
        output: Tensor = module(*(_placed(tensor, device) for tensor in inputs))
        return output.to(inputs[0].device).contiguous()

    return run


def _placed(tensor: Tensor, device: str) -> Tensor:
    tensor = tensor.to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


BACKEND = TorchBackend()
