"""Attention of diffusers' UNet and VAE by the fastest kernel for each shape. Knows nothing of engines.

Queries, keys and values stay where the projections leave them, [B,M,H,K]: every kernel reads a view of that, so no
head is copied into a batch. diffusers' own choice does not reach these networks: `set_attention_backend` passes over
`AttnProcessor2_0` without a word, and its xformers processor copies all three tensors.

Shape letters: B batch, M query rows, N key rows, H heads, K channels a head, C channels.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from fglfast.base.timing import Run, interleaved
from fglfast.generator.text_projection import Columns

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
Shape = tuple[int, int, int, int, torch.dtype]  # M, N, H, K
Seconds = dict[str, dict[str, float]]

ROUNDS = 5
LONG_ENOUGH, MOST_CALLS = 2e-3, 50  # seconds of a round, in which a short kernel runs often: launching it costs as much


def sdpa(q_BMHK: Tensor, k_BNHK: Tensor, v_BNHK: Tensor) -> Tensor:
    """PyTorch's attention, its kernel left to PyTorch; returns [B,M,H,K]."""
    return scaled_dot_product_attention(
        q_BMHK.transpose(1, 2), k_BNHK.transpose(1, 2), v_BNHK.transpose(1, 2)
    ).transpose(1, 2)


def _sdpa_by(backend: SDPBackend, q_BMHK: Tensor, k_BNHK: Tensor, v_BNHK: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return sdpa(q_BMHK, k_BNHK, v_BNHK)


@torch.library.custom_op("fglfast::xformers_attention", mutates_args=())
def xformers_attention(q_BMHK: Tensor, k_BNHK: Tensor, v_BNHK: Tensor) -> Tensor:
    """Attention by xformers, which takes [B,M,H,K] as it is; an operator, so that torch.compile looks not inside."""
    from xformers.ops import memory_efficient_attention

    return cast(Tensor, memory_efficient_attention(q_BMHK, k_BNHK, v_BNHK)).contiguous()


@xformers_attention.register_fake
def _(q_BMHK: Tensor, k_BNHK: Tensor, v_BNHK: Tensor) -> Tensor:
    return q_BMHK.new_empty(q_BMHK.shape)


def xformers_refusal() -> str:
    """Why xformers has no kernels here: not installed, or made for another PyTorch; empty if it has."""
    try:
        from xformers import _cpp_lib
    except ImportError as error:
        return f"not installed ({error})"
    said = str(getattr(_cpp_lib, "_cpp_library_load_exception", None) or "")
    built = [line.strip() for line in said.splitlines() if "you have" in line]
    return f"it was built for {built[0]}" if built else said.partition("\n")[0]


def candidates(device: str) -> dict[str, Kernel]:
    """The kernels that may work on "cpu" or "cuda"; which of them do for a shape is found by trying."""
    on_cpu: dict[str, Kernel] = {
        "flash": partial(_sdpa_by, SDPBackend.FLASH_ATTENTION),
        "math": partial(_sdpa_by, SDPBackend.MATH),
    }
    if device == "cpu":
        return on_cpu
    on_gpu = on_cpu | {
        "cudnn": partial(_sdpa_by, SDPBackend.CUDNN_ATTENTION),
        "efficient": partial(_sdpa_by, SDPBackend.EFFICIENT_ATTENTION),
    }
    return on_gpu if xformers_refusal() else on_gpu | {"xformers": xformers_attention}


class Kernels:
    """Attention by the fastest kernel for its shape, measured on the first tensors of that shape.

    Attributes:
        seconds: by shape ("4096x77x8x40 bfloat16": M, N, H, K, type), seconds of each kernel that worked there.
    """

    def __init__(self, among: Mapping[str, Kernel], seconds: Seconds | None = None) -> None:
        """Start with what was measured before, if anything was.

        Args:
            among: kernels by name.
            seconds: an earlier `seconds`; its shapes are not measured again.
        """
        self.among = dict(among)
        self.seconds: Seconds = dict(seconds or {})
        self.fastest = {_shape(name): self._fastest(name) for name in self.seconds}

    def __call__(self, q_BMHK: Tensor, k_BNHK: Tensor, v_BNHK: Tensor) -> Tensor:
        """Attention [B,M,H,K] of queries [B,M,H,K] over keys and values [B,N,H,K]."""
        shape = (q_BMHK.shape[1], k_BNHK.shape[1], q_BMHK.shape[2], q_BMHK.shape[3], q_BMHK.dtype)
        if shape not in self.fastest:
            if torch.compiler.is_compiling():  # a clock cannot be compiled
                return sdpa(q_BMHK, k_BNHK, v_BNHK)
            name = _name(shape)
            self.seconds[name] = measure(self.among, q_BMHK, k_BNHK, v_BNHK)
            self.fastest[shape] = self._fastest(name)
        return self.fastest[shape](q_BMHK, k_BNHK, v_BNHK)

    def _fastest(self, name: str) -> Kernel:
        """PyTorch's own choice where nothing worked: its error says why."""
        seconds = self.seconds[name]
        return self.among[min(seconds, key=seconds.__getitem__)] if seconds else sdpa


def measure(among: Mapping[str, Kernel], q_BMHK: Tensor, k_BNHK: Tensor, v_BNHK: Tensor) -> dict[str, float]:
    """Seconds of one call of each kernel that works on these tensors: the least of a few, taken in turns.

    Raises:
        torch.OutOfMemoryError: no kernel worked, and memory was the reason: fewer rows may do.
    """
    working: dict[str, Run] = {}
    calls: dict[str, int] = {}
    full: torch.OutOfMemoryError | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch explains at length why a kernel is not for these tensors
        for name, kernel in among.items():
            once = partial(kernel, q_BMHK, k_BNHK, v_BNHK)
            try:
                once()
                seconds = interleaved({name: once}, rounds=1, warmup=0)[name].seconds
            except torch.OutOfMemoryError as error:
                full = error
            except Exception:  # whatever it is, the kernel is not for this shape, or not installed
                continue
            else:
                calls[name] = min(MOST_CALLS, math.ceil(LONG_ENOUGH / seconds))
                working[name] = partial(_times, calls[name], once)
        if full and not working:
            raise full
        taken = interleaved(working, ROUNDS if len(working) > 1 else 1, warmup=0)
    return {name: float(f"{timing.fastest / calls[name]:.4g}") for name, timing in taken.items()}


def _times(count: int, run: Run) -> None:
    for _ in range(count):
        run()


class BMHKProcessor:
    """A processor of diffusers' `Attention` that hands views [B,M,H,K] of fused projections to a kernel."""

    def __init__(self, kernels: Kernel) -> None:
        self.kernels = kernels

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attention over rows [B,M,C] or an image [B,C,H,W], in the same shape; the names are diffusers'."""
        assert attention_mask is None, "neither network masks"
        image = hidden_states.dim() == 4
        channels_BCM = hidden_states if image else hidden_states.transpose(1, 2)
        if attn.group_norm is not None:
            channels_BCM = attn.group_norm(channels_BCM)
        rows_BMC = channels_BCM.flatten(2).transpose(1, 2)
        if encoder_hidden_states is None:
            q_BMHK, k_BNHK, v_BNHK = attn.to_qkv(rows_BMC).unflatten(-1, (3, attn.heads, -1)).unbind(2)
        else:
            q_BMHK = attn.to_q(rows_BMC).unflatten(-1, (attn.heads, -1))
            k_BNHK, v_BNHK = attn.to_kv(encoder_hidden_states).unflatten(-1, (2, attn.heads, -1)).unbind(2)
        output: Tensor = attn.to_out[0](self.kernels(q_BMHK, k_BNHK, v_BNHK).flatten(2))
        if image:
            output = output.transpose(1, 2).unflatten(2, hidden_states.shape[2:])
        if attn.residual_connection:
            output = output + hidden_states
        return output if attn.rescale_output_factor == 1 else output / attn.rescale_output_factor


def install(network: nn.Module, kernels: Kernel) -> int:
    """Fuse the projections and set the processor wherever it computes what diffusers' own does.

    Keys and values of a cross-attention are those that `take_projection` has left to read.

    Args:
        network: in evaluation mode, its weights in their final type.
        kernels: what the processors call: one kernel, or `Kernels` to choose among several.

    Returns:
        How many attention modules took it; the others keep theirs.
    """
    modules = [module for module in network.modules() if isinstance(module, Attention) and _is_plain(module)]
    for module in modules:
        if module.is_cross_attention:
            module.to_kv = Columns(module.to_k.start, module.to_v.stop)
        else:
            module.fuse_projections()
            for name in ("to_q", "to_k", "to_v"):
                delattr(module, name)  # SDXL's would hold most of a gigabyte twice
        module.requires_grad_(False).set_processor(BMHKProcessor(kernels))
    return len(modules)


def _is_plain(module: Any) -> bool:
    extras = ("spatial_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")
    is_stock = type(module.processor) is AttnProcessor2_0
    return (
        is_stock and module.inner_dim == module.inner_kv_dim and all(getattr(module, name) is None for name in extras)
    )


def _name(shape: Shape) -> str:
    *sizes, dtype = shape
    return "x".join(map(str, sizes)) + f" {dtype}".replace("torch.", "")


def _shape(name: str) -> Shape:
    m, n, h, k, dtype = re.split("[x ]", name)
    return int(m), int(n), int(h), int(k), getattr(torch, dtype)
