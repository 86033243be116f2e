"""ONNX Runtime's CUDA-only operators rewritten in ONNX's own, so that a graph made for CUDA computes on the CPU.

What each computes is from docs/ContribOperators.md of ONNX Runtime; NhwcConv's weights are [O,H,W,I].
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def on_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without GroupNorm, SkipGroupNorm and NhwcConv."""
    rewriter = Rewriter(model.graph)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        rewrite = getattr(rewriter, node.op_type, None) if node.domain == "com.microsoft" else None
        if rewrite:
            rewrite(node, {part.name: helper.get_attribute_value(part) for part in node.attribute})
        else:
            model.graph.node.append(node)
    return model


class Rewriter:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self.made = graph, 0

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        self.made += 1
        output = output or f"rewritten {self.made}"
        self.graph.node.append(helper.make_node(kind, inputs, [output], name=f"node of {output}", **attributes))
        return output

    def constant(self, values: Any) -> str:
        self.made += 1
        self.graph.initializer.append(numpy_helper.from_array(np.array(values), f"constant {self.made}"))
        return f"constant {self.made}"

    def NhwcConv(self, node: Any, attributes: dict[str, Any]) -> None:
        image, weights, *bias = node.input
        moved = [self.op("Transpose", name, perm=[0, 3, 1, 2]) for name in (image, weights)]
        result = self.op("Conv", *moved, *bias, **attributes)
        self.op("Transpose", result, perm=[0, 2, 3, 1], output=node.output[0])

    def GroupNorm(self, node: Any, attributes: dict[str, Any]) -> None:
        self._normalized(node.input[0], node.input[1:3], attributes, node.output[0])

    def SkipGroupNorm(self, node: Any, attributes: dict[str, Any]) -> None:
        image, gamma, beta, skip, *bias = node.input
        rows = [self.op("Reshape", name, self._rows(gamma)) for name in (image, skip)]
        total = self.op("Add", *rows)
        if bias:
            total = self.op("Add", total, bias[0])
        kept = node.output[1] if len(node.output) > 1 else ""
        total = self.op("Reshape", total, self.op("Shape", image), output=kept)
        self._normalized(total, (gamma, beta), attributes, node.output[0])

    def _rows(self, gamma: str) -> str:
        return self.op("Concat", self.constant([0, -1]), self.op("Shape", gamma), axis=0)

    def _normalized(self, image: str, affine: Any, attributes: dict[str, Any], output: str) -> None:
        groups = attributes["groups"]
        first = self.op("Transpose", self.op("Cast", image, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
        plain = self.constant(np.ones(groups, np.float32)), self.constant(np.zeros(groups, np.float32))
        grouped = self.op("Reshape", first, self.constant([0, groups, -1]))
        grouped = self.op("InstanceNormalization", grouped, *plain, epsilon=attributes["epsilon"])
        last = self.op("Transpose", self.op("Reshape", grouped, self.op("Shape", first)), perm=[0, 2, 3, 1])
        result = self.op("Add", self.op("Mul", last, affine[0]), affine[1])
        if attributes["activation"]:
            result = self.op("Mul", result, self.op("Sigmoid", result))
        self.op("CastLike", result, image, output=output)
