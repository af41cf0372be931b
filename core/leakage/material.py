"""What a run of the lab works on, and what one attack found."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from core.errors import DataError, ShapeError
from core.leakage.crowd import Crowd
from core.leakage.fidelity import WINDOW, Fidelity, Pictures, fidelity
from core.leakage.schemes.block_key import Pixels
from core.leakage.sent_pixels import SentPixels
from core.leakage.served import Served
from core.shield import Shield

# So many pictures are kept to be shown, and so many are the fewest to attack.
SHOWN = 4
FEWEST = 12


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """An owner's pictures, an attacker's, the way to numbers, and an embedding [h, D].

    Pictures are from 0 to 1. `seed` fixes every key and every start; `thorough` asks
    for more of both, where figures are to be compared. `served` and `crowd` are
    for attacks that learn, `crowd` being more public pictures; None: there is none.
    """

    own: Pictures = field(repr=False)
    public: Pictures = field(repr=False)
    coordinates: Pixels | SentPixels
    embedding: Float[np.ndarray, "hidden d"] = field(repr=False)
    seed: int = 0
    thorough: bool = False
    served: Served | None = field(default=None, repr=False)
    crowd: Crowd | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, pictures in (("own", self.own), ("public", self.public)):
            if len(pictures) < FEWEST:
                raise DataError(
                    f"{name}: expected at least {FEWEST} pictures, got {len(pictures)}"
                )
        if self.own.shape[1:] != self.public.shape[1:]:
            raise ShapeError(
                f"own pictures {self.own.shape[1:]}, public {self.public.shape[1:]}"
            )
        if min(self.own.shape[2:]) < max(WINDOW, 2 * self.coordinates.patch_size):
            raise ShapeError(
                f"pictures of {self.own.shape[2:]} are too small to attack"
            )
        if self.embedding.shape[1:] != (self.coordinates.dimension,):
            raise ShapeError(
                f"expected an embedding of {self.coordinates.dimension}, got "
                f"{self.embedding.shape}"
            )

    @property
    def shield(self) -> Shield | None:
        """What is removed or drowned before the key."""
        sent = self.coordinates
        return sent.shield if isinstance(sent, SentPixels) else None

    def drawn(self, count: int, rng: np.random.Generator) -> Pictures:
        """So many of the owner's pictures, or all."""
        chosen = rng.choice(len(self.own), min(count, len(self.own)), replace=False)
        return self.own[chosen]

    def generator(self, *place: int) -> np.random.Generator:
        """Randomness of its own for each attack, whatever else runs."""
        return np.random.default_rng((self.seed, *place))


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One row: what an attack recovered, and some pictures of it."""

    name: str
    scheme: str
    setting: str
    assumes: str
    fidelity: Fidelity
    original: Pictures = field(repr=False)
    seen: Pictures = field(repr=False)
    recovered: Pictures = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trace:
    """What shows without any picture being recovered: a share from 0 to 1."""

    name: str
    scheme: str
    setting: str
    assumes: str
    share: float


def finding(
    name: str,
    scheme: str,
    setting: str,
    assumes: str,
    *,
    original: Pictures,
    seen: Pictures,
    recovered: Pictures,
) -> Finding:
    """Measure all pictures, keep some."""
    measured = fidelity(original, recovered)
    kept = (
        np.clip(each[:SHOWN], 0, 1) for each in (original, stretched(seen), recovered)
    )
    return Finding(name, scheme, setting, assumes, measured, *kept)


def stretched(pictures: Pictures) -> Pictures:
    """Each picture's own darkest number as 0 and lightest as 1, to be looked at."""
    axes = (1, 2, 3)
    low, high = (f(pictures, axis=axes, keepdims=True) for f in (np.min, np.max))
    return (pictures - low) / np.maximum(high - low, 1e-12)
