"""What computes: from encrypted blocks to logits, without the plain patch embedding.

A backbone is loaded without one; each question brings the embedding `W' = W A^T` that
was issued for its owner's key, and `W' (A x) = W x`. So one batch may mix owners.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float32

from core.architecture import Architecture

Blocks: TypeAlias = Float32[np.ndarray, "n rows columns d"]
Weight: TypeAlias = Float32[np.ndarray, "hidden d"]
Tokens: TypeAlias = Float32[np.ndarray, "n rows columns hidden"]
Logits: TypeAlias = Float32[np.ndarray, "n classes"]

NO_FACTS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Encrypted blocks and the embedding that was issued for their key."""

    blocks: Blocks = field(repr=False)
    weight: Weight = field(repr=False)


class Backbone(Protocol):
    """One model version, ready to answer."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What a caller may know of how it computes, for the model's metadata."""
        ...

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


class Network(Protocol):
    """What of a backbone differs between engines: from tokens to logits."""

    def forward(self, tokens: Tokens) -> Logits:
        """Compute a few images at once; as many threads call it as batches may be."""
        ...
