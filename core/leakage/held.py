"""What one party of a federation holds of one model, for the attacks of a coalition.

Each party's package says what its own folder holds (`secrets_held`). Nothing here is
ever sent or written: it is what an attacker has who is that party.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, Self

import numpy as np
from jaxtyping import Float

from core.leakage.moments import Blocks

Embedding = Float[np.ndarray, "hidden d"]
Matrix = Float[np.ndarray, "d d"]


class KeyName(NamedTuple):
    """One version of an owner's key; `owner` is the owner's SPIFFE ID."""

    owner: str
    key_id: str
    version: int


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The plain embedding, keys, issued embeddings and transformed pictures.

    What a party does not have is None or empty. It is as secret as what is in it: it
    refuses to be printed, pickled or copied.
    """

    embedding: Embedding | None = field(default=None, repr=False)
    keys: Mapping[KeyName, Matrix] = field(default_factory=dict, repr=False)
    issued: Mapping[KeyName, Embedding] = field(default_factory=dict, repr=False)
    seen: Mapping[KeyName, Blocks] = field(default_factory=dict, repr=False)

    @classmethod
    def together(cls, parts: Iterable[Self]) -> Self:
        """What several parties have if they join; equal things are held once."""
        kept = list(parts)
        plain = [part.embedding for part in kept if part.embedding is not None]
        return cls(
            plain[0] if plain else None,
            {name: key for part in kept for name, key in part.keys.items()},
            {name: each for part in kept for name, each in part.issued.items()},
            {name: each for part in kept for name, each in part.seen.items()},
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("what a party holds is neither pickled nor copied")
