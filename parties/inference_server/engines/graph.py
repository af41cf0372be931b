"""A ConvMixer from its tokens on as an ONNX graph, written from a release's tensors.

Two of the BatchNorms' parts are folded into what follows them, and both are exact. The
shift within a residual branch is added at every place before a pointwise convolution,
so it goes into that one's bias. The last BatchNorm goes into the classifier: a mean
over places lets it through.

The other parts stay. A depthwise convolution pads with zeros, and `s 0 + t` is not
zero: what comes before it may not be taken out at the edges. And the scale within a
branch meets the unscaled other branch in the sum.

They stay as BatchNormalization: as a product and a sum they would be two passes over
the memory, which the runtimes do not fuse.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from core.architecture import Activation, Architecture
from parties.inference_server.engines import tensors as names
from parties.inference_server.engines.affine import Affine, affine, linear, rounded

INPUT: Final = "tokens"
OUTPUT: Final = "logits"
# Opset 20 brought Gelu; IR 9 came with it.
_OPSET: Final = 20
_IR_VERSION: Final = 9
_OPERATORS: Final[Mapping[Activation, str]] = MappingProxyType(
    {"gelu": "Gelu", "relu": "Relu"}
)


def backbone_graph(
    architecture: Architecture, tensors: Mapping[str, np.ndarray]
) -> bytes:
    """Write the graph from tokens [n, rows, columns, hidden] to logits [n, classes].

    Raises:
        CorruptFileError: the tensors are not a backbone of this architecture.
    """
    names.require_fit(architecture, tensors)
    graph = _Graph(architecture, tensors)
    planes = graph.add("Transpose", INPUT, perm=[0, 3, 1, 2])
    planes = graph.activate(planes)
    before = affine(tensors, names.FIRST_NORM)
    for block in range(architecture.depth):
        planes = graph.mix(block, graph.normalise(planes, before, block))
        before = affine(tensors, names.outer_norm(block))
    graph.decide(planes, before)
    return graph.to_model().SerializeToString()


@dataclass(slots=True)
class _Graph:
    """Nodes and weights so far; each method adds to them and names its result."""

    architecture: Architecture
    tensors: Mapping[str, np.ndarray]
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)

    def mix(self, block: int, planes: str) -> str:
        """Mix places, with a residual, and then channels."""
        inner = affine(self.tensors, names.inner_norm(block))
        mixed = self.activate(self._depthwise(block, planes))
        # Its shift is in the pointwise convolution.
        scaled = Affine(inner.scale, np.zeros_like(inner.shift))
        summed = self.add("Add", planes, self._norm(mixed, scaled, f"inner{block}"))
        return self.activate(self._pointwise(block, summed, inner.shift))

    def activate(self, planes: str) -> str:
        return self.add(_OPERATORS[self.architecture.activation], planes)

    def normalise(self, planes: str, by: Affine, block: int) -> str:
        return self._norm(planes, by, f"outer{block}")

    def decide(self, planes: str, last: Affine) -> None:
        """Average over places and classify."""
        head = linear(self.tensors, names.HEAD).after(last)
        pooled = self.add("Flatten", self.add("GlobalAveragePool", planes))
        weight = self._hold(head.weight, "head.weight")
        bias = self._hold(head.bias, "head.bias")
        node = helper.make_node("Gemm", [pooled, weight, bias], [OUTPUT], transB=1)
        self.nodes.append(node)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        result = f"{operator}_{len(self.nodes)}"
        node = helper.make_node(operator, inputs, [result], **attributes)
        self.nodes.append(node)
        return result

    def to_model(self) -> ModelProto:
        a = self.architecture
        sizes: list[str | int | None] = ["n", a.rows, a.columns, a.hidden]
        reads = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, sizes)
        says = helper.make_tensor_value_info(
            OUTPUT, TensorProto.FLOAT, ["n", a.classes]
        )
        graph = helper.make_graph(self.nodes, "backbone", [reads], [says], self.weights)
        opset = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)

    def _depthwise(self, block: int, planes: str) -> str:
        layer = names.depthwise(block, self.architecture)
        size = self.architecture.kernel_size
        # As torch pads for "same": an even kernel sees one place more at the end.
        pads = [(size - 1) // 2] * 2 + [size // 2] * 2
        parts = [
            self._hold(self.tensors[f"{layer}.{part}"], f"{layer}.{part}")
            for part in ("weight", "bias")
        ]
        return self.add(
            "Conv", planes, *parts, group=self.architecture.hidden, pads=pads
        )

    def _pointwise(self, block: int, planes: str, shift: np.ndarray) -> str:
        layer = names.pointwise(block)
        taken_in = linear(self.tensors, layer).after_shift(shift)
        weight = self._hold(taken_in.weight[:, :, None, None], f"{layer}.weight")
        bias = self._hold(taken_in.bias, f"{layer}.bias")
        return self.add("Conv", planes, weight, bias)

    def _norm(self, planes: str, by: Affine, name: str) -> str:
        """Add one whose mean is 0 and variance 1: it has no epsilon to undo."""
        scale = self._hold(by.scale, f"{name}.scale")
        shift = self._hold(by.shift, f"{name}.shift")
        mean = self._hold(np.zeros_like(by.shift), f"{name}.mean")
        variance = self._hold(np.ones_like(by.shift), f"{name}.variance")
        return self.add(
            "BatchNormalization", planes, scale, shift, mean, variance, epsilon=0.0
        )

    def _hold(self, numbers: np.ndarray, name: str) -> str:
        weight = numpy_helper.from_array(rounded(numbers, name), name)
        self.weights.append(weight)
        return name
