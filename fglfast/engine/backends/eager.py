"""PyTorch eager, channels last, measured attention: the backend that is always there."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fglfast.base.files import write_atomic
from fglfast.engine.backends import Backend
from fglfast.engine.backends.eight_bits import PACKAGES, float_type, refusal, to_eight_bits
from fglfast.engine.exported import DECODER, UNET, example_inputs
from fglfast.engine.networks import Networks, in_chunks_that_fit
from fglfast.engine.recipe import Build
from fglfast.generator.shapes import Shapes

ATTENTION = "attention.json"


class TorchBackend(Backend):
    """Runs the modules as they are, channels last."""

    packages: tuple[str, ...] = ("torch",)
    optional: tuple[str, ...] = ("xformers",)
    extra = "cpu"
    needs_export = False
    precisions: tuple[str, ...] = ("float32", "bfloat16", "float16", *PACKAGES)
    needs: Mapping[str, str] = PACKAGES
    compiles = False

    def compile(self, build: Build, shapes: Shapes, onnx: Path, engine: Path) -> None:
        """Nothing yet: the first `load` measures the attention kernels and leaves them in the engine."""

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Load the modules onto the GPU when there is one.

        The text encoder stays float32: it runs once a prompt, and every step depends on it.
        """
        # Seconds to import, which others are spared.
        from fglfast.engine.attention import Kernels, Seconds, candidates, install
        from fglfast.engine.export import dtype_of
        from fglfast.generator.load import load_generator, own_device

        device, generator = own_device(), load_generator(model)
        measured = engine / ATTENTION
        known: Seconds | None = json.loads(measured.read_text(encoding="utf-8")) if measured.exists() else None
        kernels = Kernels(candidates(device), known)
        dtype = float_type(build.precision, device)
        parts: dict[str, tuple[nn.Module, torch.dtype, int]] = {
            UNET: (generator.unet, dtype, build.unet_batch),
            DECODER: (generator.decoder, dtype_of(DECODER, generator, dtype), build.vae_batch),
        }
        runs = {}
        for name, (network, kind, batch) in parts.items():
            network.to(device=device, dtype=kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
            install(network, kernels)
            if name != DECODER and build.precision in PACKAGES:
                to_eight_bits(network, build.precision)
            if known is None:
                first_pass = in_chunks_that_fit(eager(network, device, kind), batch, Path(name).stem)
                first_pass(*example_inputs(shapes, batch)[name].values())
            runs[name] = in_chunks_that_fit(self.function(network, device, kind), batch, Path(name).stem)
        if known is None:
            write_atomic(measured, json.dumps(kernels.seconds, indent=2) + "\n")
        return Networks(
            encode=eager(generator.text.to(device), device, torch.float32),
            project=projecting(generator.projection.to(device), device, dtype),
            denoise=runs[UNET],
            decode=runs[DECODER],
            device=device,
        )

    def refusal(self, precision: str) -> str:
        """Why this GPU, or the lack of one, does not compute in a precision."""
        if precision == "int8" and torch.cuda.is_available() and not self.compiles:
            return "on a GPU its int8 waits for the host at every product; torch-compile's does not"
        return refusal(precision)

    def key_facts(self) -> dict[str, str]:
        """On a CPU the number of threads: it decides the last bits of a sum."""
        return {} if torch.cuda.is_available() else {"threads": str(torch.get_num_threads())}

    def function(self, network: nn.Module, device: str, dtype: torch.dtype) -> Callable[..., Tensor]:
        """One network as a function of one chunk: float32 in, float32 out, on the inputs' device."""
        return eager(network, device, dtype)


def eager(network: nn.Module, device: str, dtype: torch.dtype) -> Callable[..., Tensor]:
    """A network, already on `device` and of `dtype`, as a function: float32 in, float32 out, on the inputs' device.

    cuDNN chooses its convolutions by rule, not by a race (`cudnn.benchmark`): two processes, or one that goes on, would
    choose otherwise now and then, and their images would differ in the last bits.
    """

    @torch.inference_mode()
    def run(*inputs: Tensor) -> Tensor:
        output: Tensor = network(*(placed(tensor, device, dtype) for tensor in inputs))
        return output.to(inputs[0].device, torch.float32).contiguous()

    return run


def projecting(projection: nn.Module, device: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A text projection as a function: float32 in, its result stays on the device in the UNet's type."""

    @torch.inference_mode()
    def run(text_BLD: Tensor) -> Tensor:
        projected_BLE: Tensor = projection(text_BLD.to(device))
        return projected_BLE.to(dtype)

    return run


def placed(tensor: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    """An input where and how the network reads it; timesteps [B] stay float32, for bfloat16 has no 999."""
    if tensor.is_floating_point() and tensor.dim() > 1:
        tensor = tensor.to(dtype)
    tensor = tensor.to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


BACKEND = TorchBackend()
