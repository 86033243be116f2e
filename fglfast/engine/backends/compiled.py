"""PyTorch compiled: static shapes, and on a GPU a CUDA graph of each network. Compiled in a minute or two.

PyTorch keeps a CUDA graph to the thread that made it (pytorch/pytorch#123177): load and call such an engine in one.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fglfast.base.errors import FglError
from fglfast.base.wording import first_line
from fglfast.engine.backends.eager import TorchBackend, placed
from fglfast.engine.exported import DECODER, UNET, example_inputs
from fglfast.engine.group_norm import keep_channels_last
from fglfast.engine.networks import Networks
from fglfast.engine.recipe import Build
from fglfast.engine.upsampling import transpose_upsampling
from fglfast.generator.shapes import Shapes

MAX_PROGRAMS = 256  # PyTorch's own limit, 8, counts those of every engine that a process opens
REWRITTEN = "group norms, upsampling"  # what is changed in a network for a GPU
# An int8 product on a GPU is scaled where it is made, not written out in four bytes first (pytorch/pytorch#111125).
SETTINGS = {"force_fuse_int_mm_with_mul": True}


class TorchCompileBackend(TorchBackend):
    """The eager backend's modules through torch.compile, each at one batch size."""

    optional: tuple[str, ...] = ("xformers", "triton")
    compiles = True
    mode = "reduce-overhead"  # on a GPU

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Load and compile; what PyTorch compiled before it finds in its own cache.

        Raises:
            FglError: a network does not compile here.
        """
        networks = super().load(build, shapes, model, engine)
        for name, run, file, batch in (
            ("UNet", networks.denoise, UNET, build.unet_batch),
            ("VAE decoder", networks.decode, DECODER, build.vae_batch),
        ):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the compiler's remarks on diffusers' code
                    run(*example_inputs(shapes, batch)[file].values())
            except FglError:
                raise
            except Exception as error:  # each stage of the compiler has errors of its own
                reason = first_line(error)
                raise FglError(
                    f"torch.compile failed on the {name}: {reason}",
                    "use --backend torch; on a CPU, torch.compile needs a C++ compiler such as g++",
                ) from error
        return networks

    def key_facts(self) -> dict[str, str]:
        """On a GPU also what is made of a network there, which is what the gate has judged."""
        return super().key_facts() | ({"rewritten": REWRITTEN} if torch.cuda.is_available() else {})

    def function(self, network: nn.Module, device: str, dtype: torch.dtype) -> Callable[..., Tensor]:
        """One network compiled as a function of one chunk; each number of rows is compiled once."""
        if device == "cuda" and dtype != torch.float32:
            keep_channels_last(network)
            transpose_upsampling(network)
        mode = self.mode if device == "cuda" else "default"
        compiled = torch.compile(network, mode=mode, fullgraph=True, dynamic=False)
        buffers: dict[int, list[Tensor]] = {}

        @torch.inference_mode()
        def run(*inputs: Tensor) -> Tensor:
            rows = len(inputs[0])
            if rows not in buffers:
                buffers[rows] = [placed(tensor, device, dtype).clone() for tensor in inputs]
            # The same tensors every time: whatever the caller's strides and place, nothing is compiled again.
            for buffer, tensor in zip(buffers[rows], inputs, strict=True):
                buffer.copy_(tensor)
            torch.compiler.cudagraph_mark_step_begin()
            with torch._dynamo.config.patch(recompile_limit=MAX_PROGRAMS), torch._inductor.config.patch(SETTINGS):
                output: Tensor = compiled(*buffers[rows])
            # A copy: the next replay of a CUDA graph writes over its output.
            return output.to(inputs[0].device, torch.float32, copy=True).contiguous()

        return run


BACKEND = TorchCompileBackend()
