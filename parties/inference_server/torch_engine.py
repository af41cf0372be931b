"""The engine that computes with PyTorch: eager, float32, one batch at a time."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float32

from core.architecture import Architecture
from core.convmixer import ConvMixer, put_together
from core.transform import embed
from parties.inference_server.engine import Logits, Question

_BIAS = "embedding.bias"
# Images at a time: more is no faster, and activations take memory for each.
_SLICE = 256


class TorchEngine:
    """Loads backbones that share one pool of `threads` threads."""

    def __init__(self, *, threads: int) -> None:
        torch.set_num_threads(threads)

    def load(
        self, architecture: Architecture, tensors: Mapping[str, np.ndarray]
    ) -> "TorchBackbone":
        model = put_together(architecture, tensors)
        del model.embedding  # it holds zeros; tokens come from issued embeddings
        return TorchBackbone(tensors[_BIAS], model)


class TorchBackbone:
    """A ConvMixer from the tokens on."""

    def __init__(self, bias: Float32[np.ndarray, " hidden"], model: ConvMixer) -> None:
        self._bias = bias
        self._model = model

    def answer(self, questions: Sequence[Question]) -> list[Logits]:
        # Finite blocks may still be too large: the caller sees infinite logits.
        with np.errstate(over="ignore", invalid="ignore"):
            tokens = [embed(q.blocks, q.weight, self._bias) for q in questions]
        logits = self._forward(np.concatenate(tokens))
        ends = np.cumsum([len(question.blocks) for question in questions])
        return np.split(logits, ends[:-1])

    def _forward(self, tokens: Float32[np.ndarray, "n rows columns hidden"]) -> Logits:
        with torch.inference_mode():
            slices = torch.split(torch.from_numpy(tokens), _SLICE)
            logits = [self._model.forward_tokens(each) for each in slices]
            return torch.cat(logits).numpy()
