"""The engine that computes with PyTorch: eager, float32; what the others must equal."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from core.architecture import Architecture
from core.convmixer import ConvMixer, put_together
from parties.inference_server.engine import Logits, Tokens
from parties.inference_server.engines.backbone import EmbeddedBackbone, embedded


class TorchEngine:
    """Loads backbones that share one pool of `threads` threads."""

    def __init__(self, *, threads: int) -> None:
        torch.set_num_threads(threads)

    def load(
        self, architecture: Architecture, tensors: Mapping[str, np.ndarray]
    ) -> EmbeddedBackbone:
        model = put_together(architecture, tensors)
        del model.embedding  # it holds zeros; tokens come from issued embeddings
        facts = {"engine": f"torch {torch.__version__}", "precision": "float32"}
        return embedded(TorchNetwork(model), architecture, tensors, facts)


@dataclass(frozen=True, slots=True, eq=False)
class TorchNetwork:
    """A ConvMixer from the tokens on."""

    model: ConvMixer = field(repr=False)

    def forward(self, tokens: Tokens) -> Logits:
        with torch.inference_mode():
            found: Logits = self.model.forward_tokens(torch.from_numpy(tokens)).numpy()
        return found
