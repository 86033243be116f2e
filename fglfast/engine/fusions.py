"""Fused operators of a graph: one written at the export, all counted and held against the network's modules.

A fusion that matches nothing is silent and slow: microsoft/onnxruntime issue 15225. Knows nothing of sessions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fglfast.base.config import Settings
from fglfast.base.errors import FglError

FILE = "export.json"
# Of ONNX's own.
COMPOUND = ("Attention", "Gelu", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "Softmax")
Counts = dict[str, int]


class Exported(Settings):
    """What an exported graph no longer tells of its networks; it lies beside them.

    Attributes:
        modules: by network, how many modules of each kind that is counted run in a pass.
        float16: the networks that keep within its range.
    """

    modules: dict[str, Counts]
    float16: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path) -> "Exported":
        """Read it.

        Raises:
            BadInputError: it is missing or malformed.
        """
        return cls.from_json(folder / FILE, "delete the folder")

    def counted(self, graph: Path, operators: Mapping[str, tuple[str, ...]]) -> Counts:
        """The operators that `count` finds in what was made of one of its graphs, under the same name.

        Raises:
            FglError: as `require`.
        """
        found = count(graph)
        require(found, self.modules.get(graph.name, {}), operators, graph.name)
        return found


def multi_head_attention(q_BMHK: Tensor, k_BNHK: Tensor, v_BNHK: Tensor) -> Tensor:
    """Attention [B,M,H,K] as one operator of ONNX Runtime, for `attention.install`; it can be exported, not run."""
    query_BMC = q_BMHK.flatten(2)
    output_BMC: Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (query_BMC, k_BNHK.flatten(2), v_BNHK.flatten(2)),
        attrs={"num_heads": q_BMHK.shape[2]},
        dtype=q_BMHK.dtype,
        shape=query_BMC.shape,
        version=1,
    )
    output_BMHK: Tensor = output_BMC.unflatten(2, q_BMHK.shape[2:])
    return output_BMHK


@contextmanager
def counting(network: nn.Module) -> Iterator[Counts]:
    """Count the modules of each kind that run meanwhile, each once."""
    from diffusers.models.attention_processor import Attention  # seconds to import, which who only compiles is spared

    kinds = {"Attention": Attention, "Conv2d": nn.Conv2d, "GroupNorm": nn.GroupNorm, "LayerNorm": nn.LayerNorm}
    seen: set[int] = set()
    counts: Counts = dict.fromkeys(kinds, 0)

    def note(module: nn.Module, *_: Any) -> None:
        if id(module) not in seen:
            seen.add(id(module))
            for kind, cls in kinds.items():
                counts[kind] += isinstance(module, cls)

    counted = tuple(kinds.values())
    hooks = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, counted)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def count(network: Path) -> Counts:
    """How often each operator that is many operations in one occurs in an ONNX file."""
    from onnx import load

    names = (
        f"{node.domain.removeprefix('com.microsoft').strip('.')}.{node.op_type}".strip(".")
        for node in load(network, load_external_data=False).graph.node
        if node.domain not in ("", "ai.onnx") or node.op_type in COMPOUND
    )
    return dict(sorted(Counter(names).items()))


def require(found: Counts, modules: Counts, operators: Mapping[str, tuple[str, ...]], what: str) -> None:
    """Refuse a graph in which not every module became a fused operator.

    Args:
        found: see `count`.
        modules: see `Exported`; of a network that is not in it nothing is required.
        operators: by kind of module, the operators of which each becomes one.
        what: the network's name.

    Raises:
        FglError: naming the operators, the number expected and the number found.
    """
    for kind, expected in modules.items():
        fused = operators.get(kind, ())
        number = sum(found.get(name, 0) for name in fused)
        if fused and number != expected:
            raise FglError(
                f"{what}: {number} {' or '.join(fused)} operators for {expected} {kind} modules: a fusion failed",
                "use another version of torch or of the backend's package, or another backend",
            )
