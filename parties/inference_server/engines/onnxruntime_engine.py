"""The engine that computes with ONNX Runtime: float32, on the processor, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnxruntime

from core.architecture import Architecture
from parties.inference_server.engine import Logits, Tokens
from parties.inference_server.engines.backbone import EmbeddedBackbone, embedded
from parties.inference_server.engines.graph import INPUT, OUTPUT, backbone_graph

_ERRORS_ONLY: Final = 3


@dataclass(frozen=True, slots=True)
class OnnxRuntimeEngine:
    """Loads backbones that compute with `threads` threads each."""

    threads: int

    def load(
        self, architecture: Architecture, tensors: Mapping[str, np.ndarray]
    ) -> EmbeddedBackbone:
        session = onnxruntime.InferenceSession(
            backbone_graph(architecture, tensors),
            _options(self.threads),
            providers=["CPUExecutionProvider"],
        )
        version = onnxruntime.__version__
        facts = {"engine": f"onnxruntime {version}", "precision": "float32"}
        return embedded(OnnxRuntimeNetwork(session), architecture, tensors, facts)


@dataclass(frozen=True, slots=True, eq=False)
class OnnxRuntimeNetwork:
    """A session, and with it the weights and threads."""

    session: Any = field(repr=False)

    def forward(self, tokens: Tokens) -> Logits:
        (logits,) = self.session.run([OUTPUT], {INPUT: tokens})
        found: Logits = logits
        return found


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Between batches its threads would go on spinning, where others want the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
