"""What all engines share: embeddings, slices, and answers cut as they were asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float32

from core.architecture import Architecture
from parties.inference_server.engine import Logits, Network, Question
from parties.inference_server.engines.tensors import EMBEDDING_BIAS
from parties.inference_server.engines.tokens import slices, tokens

# Tokens computed at once: more is no faster, and activations take several times this.
_SLICE_BYTES: Final = 4 << 20
_FLOAT_BYTES: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedBackbone:
    """A network behind the embeddings that the questions bring."""

    network: Network
    bias: Float32[np.ndarray, " hidden"] = field(repr=False)
    # Images computed at once.
    slice_images: int
    facts: Mapping[str, str]

    def answer(self, questions: Sequence[Question]) -> list[Logits]:
        logits = [
            self.network.forward(tokens(each, self.bias))
            for each in slices(questions, self.slice_images)
        ]
        ends = np.cumsum([len(question.blocks) for question in questions])
        return np.split(np.concatenate(logits), ends[:-1])


def embedded(
    network: Network,
    architecture: Architecture,
    tensors: Mapping[str, np.ndarray],
    facts: Mapping[str, str],
) -> EmbeddedBackbone:
    """Put a network behind embeddings; `tensors` are those it was made of."""
    a = architecture
    image_bytes = a.rows * a.columns * a.hidden * _FLOAT_BYTES
    most = max(1, _SLICE_BYTES // image_bytes)
    return EmbeddedBackbone(network, tensors[EMBEDDING_BIAS], most, facts)
