"""The engine that computes with OpenVINO, in float32 or bfloat16.

Left to itself OpenVINO takes bfloat16 where the processor has it, without a word. So
the precision is set, and read back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, Literal

import numpy as np
import openvino

from core.architecture import Architecture
from core.errors import ConfigurationError
from parties.inference_server.engine import Logits, Tokens
from parties.inference_server.engines.agreement import agreement
from parties.inference_server.engines.backbone import EmbeddedBackbone, embedded
from parties.inference_server.engines.graph import backbone_graph

Precision = Literal["float32", "bfloat16"]

_TYPES: Final = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}


@dataclass(frozen=True, slots=True)
class OpenVinoEngine:
    """Loads backbones that compute with `threads` threads each."""

    threads: int
    precision: Precision = "float32"
    # How many batches it computes at the same time, with so many threads each.
    at_once: int = 1

    def load(
        self, architecture: Architecture, tensors: Mapping[str, np.ndarray]
    ) -> EmbeddedBackbone:
        """Make a backbone ready; one in bfloat16 is compared with float32 first.

        Raises:
            ConfigurationError: this processor does not compute in bfloat16.
            CorruptFileError: the tensors are not a backbone of this architecture.
        """
        graph = backbone_graph(architecture, tensors)
        network = self._network(graph, self.precision)
        version = openvino.get_version().partition("-")[0]
        facts = {"engine": f"openvino {version}", "precision": self.precision}
        if self.precision != "float32":
            exact = self._network(graph, "float32")
            facts |= agreement(exact, network, architecture)
        return embedded(network, architecture, tensors, facts)

    def _network(self, graph: bytes, precision: Precision) -> "OpenVinoNetwork":
        core = openvino.Core()
        if precision == "bfloat16":
            _require_bfloat16(core)
        compiled = core.compile_model(
            core.read_model(graph),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _TYPES[precision],
                "INFERENCE_NUM_THREADS": self.threads * self.at_once,
                "NUM_STREAMS": self.at_once,
            },
        )
        _require_precision(compiled, precision)
        free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.at_once):
            free.put(compiled.create_infer_request())
        return OpenVinoNetwork(free)


@dataclass(frozen=True, slots=True, eq=False)
class OpenVinoNetwork:
    """A compiled network's requests; each is reused, by one thread at a time."""

    free: "SimpleQueue[Any]" = field(repr=False)

    def forward(self, tokens: Tokens) -> Logits:
        request = self.free.get()
        try:
            # Only the logits are copied: the request's own memory is written again.
            (logits,) = request.infer([tokens], share_inputs=True).values()
            return np.array(logits)
        finally:
            self.free.put(request)


def _require_bfloat16(core: openvino.Core) -> None:
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        raise ConfigurationError(
            "engine openvino-bfloat16: this processor computes in "
            f"{', '.join(able)}, not in BF16; choose openvino"
        )


def _require_precision(compiled: openvino.CompiledModel, precision: Precision) -> None:
    found = compiled.get_property("INFERENCE_PRECISION_HINT")
    if found != _TYPES[precision]:
        raise ConfigurationError(
            f"engine openvino: expected {precision}, OpenVINO chose {found}"
        )
