"""What computes: from encrypted blocks to logits, without the plain patch embedding.

A backbone is loaded without one; each question brings the embedding `W' = W A^T` that
was issued for its owner's key, and `W' (A x) = W x`. So one batch may mix owners.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from jaxtyping import Float32

from core.architecture import Architecture

Blocks: TypeAlias = Float32[np.ndarray, "n rows columns d"]
Weight: TypeAlias = Float32[np.ndarray, "hidden d"]
Logits: TypeAlias = Float32[np.ndarray, "n classes"]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Encrypted blocks and the embedding that was issued for their key."""

    blocks: Blocks = field(repr=False)
    weight: Weight = field(repr=False)


class Backbone(Protocol):
    """One model version, ready to answer."""

    def answer(self, questions: Sequence[Question]) -> list[Logits]:
        """The logits of each question, in order; each may be another owner's."""
        ...


class Engine(Protocol):
    """Anything that can make a backbone ready."""

    def load(
        self, architecture: Architecture, tensors: Mapping[str, np.ndarray]
    ) -> Backbone:
        """Make a backbone from a release's tensors, or raise `CorruptFileError`."""
        ...
