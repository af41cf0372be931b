"""What an owner removes or drowns before the key: `x' = A s(x)`.

A key hides; it takes nothing away, and a server that attacks finds it. What a shield
took away nobody finds, whatever they know: `docs/shields.md` says how little that is.

A shield here is `s(x) = P (x + n)`, or the magnitudes of these numbers, `|P (x + n)|`:
`x` in R^D is a normalised block, `n` noise that is drawn for every request, and `P` has
r orthonormal rows. The r numbers of a block are the channels of a smaller image, whose
patches are 1 x 1: all that comes after, key, embedding and server, works on that.
"""

import base64
import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol, Self

import numpy as np
from einops import rearrange, repeat
from jaxtyping import Float, Float32, Float64

from core.architecture import MAX_DIMENSION, Architecture
from core.blocks import from_blocks, to_blocks
from core.complement import complement
from core.cosines import cosines
from core.errors import ConfigurationError, ShapeError
from core.normals import Entropy, normals
from core.preprocessing import Preprocessing
from core.principal import BlockMoments, strongest

Images = Float[np.ndarray, "n c h w"]
# One pixel a block, one channel a number.
Shielded = Float[np.ndarray, "n r rows columns"]

# Numbers that are dropped directions: with them a manifest is still short.
MAX_NUMBERS: Final = 8_192
# Drowns any picture many times over.
MAX_SIGMA: Final = 100.0
# Unit vectors that were rounded to float32 are orthonormal to 1e-7.
_ROUNDING: Final = 1e-5

Kind = Literal["none", "highpass", "noise", "magnitude"]
_SPECS: Final = "none, highpass:K, noise:SIGMA or magnitude:K"


class Shield(Protocol):
    """One kind of shield, with all that it needs."""

    @property
    def spec(self) -> str:
        """As people write it, such as `highpass:9`."""
        ...

    @property
    def patch_size(self) -> int:
        """The side of a block, in pixels."""
        ...

    @property
    def channels(self) -> int:
        """Of the pictures."""
        ...

    @property
    def outputs(self) -> int:
        """r, the numbers that are left of a block."""
        ...

    @property
    def deviations(self) -> tuple[float, ...]:
        """The deviation of the noise in each channel of a normalised picture."""
        ...

    @property
    def unsigned(self) -> bool:
        """Whether the magnitudes alone are sent."""
        ...

    def projection(self) -> Float64[np.ndarray, "r d"]:
        """`P`; its bits are the same on every machine."""
        ...

    def to_dict(self) -> dict[str, object]:
        """What a manifest says of it."""
        ...


@dataclass(frozen=True, slots=True)
class HighPass:
    """Drops K directions: the strongest of the training set's blocks.

    `dropped` are K unit vectors of D numbers each, as little-endian float32. `P` is a
    basis of what is orthogonal to them, and computed when it is asked for.
    """

    patch_size: int
    channels: int
    dropped: bytes = field(repr=False)

    def __post_init__(self) -> None:
        size = 4 * _require_block(self.patch_size, self.channels)
        if len(self.dropped) % size or not 0 < len(self.dropped) < size**2 // 4:
            raise ConfigurationError(
                f"shield.dropped: expected vectors of {size // 4} float32 numbers, "
                f"fewer than {size // 4} of them, got {len(self.dropped)} bytes"
            )
        _require_short(len(self.dropped) // 4)
        found = self._directions()
        gram = found @ found.T
        # A comparison with NaN is false.
        if not (np.abs(gram - np.eye(len(gram))) < _ROUNDING).all():
            raise ConfigurationError("shield.dropped: expected orthonormal vectors")

    @classmethod
    def of(cls, dropped: Float32[np.ndarray, "k d"], patch_size: int) -> Self:
        """Drop these directions of blocks."""
        channels = dropped.shape[1] // patch_size**2
        return cls(patch_size, channels, dropped.astype("<f4").tobytes())

    @property
    def spec(self) -> str:
        return f"highpass:{len(self._directions())}"

    @property
    def outputs(self) -> int:
        dimension = self.channels * self.patch_size**2
        return dimension - len(self.dropped) // (4 * dimension)

    @property
    def deviations(self) -> tuple[float, ...]:
        return (0.0,) * self.channels

    @property
    def unsigned(self) -> bool:
        return False

    def projection(self) -> Float64[np.ndarray, "r d"]:
        return complement(self._directions())

    def to_dict(self) -> dict[str, object]:
        return {
            "kind": "highpass",
            "patch_size": self.patch_size,
            "dropped": base64.b64encode(self.dropped).decode(),
        }

    def _directions(self) -> Float64[np.ndarray, "k d"]:
        numbers = np.frombuffer(self.dropped, dtype="<f4").astype(np.float64)
        return numbers.reshape(-1, self.channels * self.patch_size**2)


@dataclass(frozen=True, slots=True)
class Noise:
    """Adds white noise: independent, normal, drawn anew for every request.

    `sigma` is its deviation on the scale on which pixels are 0..1; `std` is what the
    preprocessing divides each channel by, afterwards.
    """

    patch_size: int
    sigma: float
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_block(self.patch_size, self.channels)
        _require_sigma(self.sigma)

    @property
    def spec(self) -> str:
        return f"noise:{self.sigma:g}"

    @property
    def channels(self) -> int:
        return len(self.std)

    @property
    def outputs(self) -> int:
        return self.channels * self.patch_size**2

    @property
    def deviations(self) -> tuple[float, ...]:
        return tuple(self.sigma / each for each in self.std)

    @property
    def unsigned(self) -> bool:
        return False

    def projection(self) -> Float64[np.ndarray, "r d"]:
        return np.eye(self.outputs)

    def to_dict(self) -> dict[str, object]:
        return {
            "kind": "noise",
            "patch_size": self.patch_size,
            "sigma": self.sigma,
        }


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Takes the signs of a block's cosine coefficients, and drops the K coarsest.

    Where an edge of a block lies, and which side of it is light, stands in the signs;
    how much of each pattern there is, in the magnitudes (as in a scattering transform:
    Bruna & Mallat 2013, arXiv 1203.1513). The first three coarsest of a colour picture
    are the means of its channels.
    """

    patch_size: int
    channels: int
    dropped: int

    def __post_init__(self) -> None:
        _require_fewer(self.dropped, _require_block(self.patch_size, self.channels))

    @property
    def spec(self) -> str:
        return f"magnitude:{self.dropped}"

    @property
    def outputs(self) -> int:
        return self.channels * self.patch_size**2 - self.dropped

    @property
    def deviations(self) -> tuple[float, ...]:
        return (0.0,) * self.channels

    @property
    def unsigned(self) -> bool:
        return True

    def projection(self) -> Float64[np.ndarray, "r d"]:
        return cosines(self.patch_size, self.channels)[self.dropped :]

    def to_dict(self) -> dict[str, object]:
        return {
            "kind": "magnitude",
            "patch_size": self.patch_size,
            "dropped": self.dropped,
        }


@dataclass(frozen=True, slots=True)
class ShieldPlan:
    """One that is asked for: `none`, `highpass:K`, `noise:SIGMA` or `magnitude:K`."""

    kind: Kind = "none"
    dropped: int = 0
    sigma: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what people write.

        Raises:
            ConfigurationError: it is no shield.
        """
        kind, _, amount = text.partition(":")
        if text == "none":
            return cls()
        if kind == "highpass" and amount.isascii() and amount.isdigit():
            return cls("highpass", dropped=_require_dropped(int(amount[:9])))
        if kind == "magnitude" and amount.isascii() and amount.isdigit():
            return cls("magnitude", dropped=int(amount[:9]))
        if kind == "noise":
            return cls("noise", sigma=_require_sigma(_number(amount)))
        raise ConfigurationError(f"shield: expected {_SPECS}, got {text!r:.40}")

    def require_fit(self, patch_size: int, channels: int) -> None:
        """Refuse, before anything is trained, what blocks of this size cannot have."""
        dimension = channels * patch_size**2
        _require_fewer(self.dropped, dimension)
        if self.kind == "highpass":
            _require_short(self.dropped * dimension)

    def make(
        self,
        preprocessing: Preprocessing,
        patch_size: int,
        moments: BlockMoments | None = None,
    ) -> Shield | None:
        """The shield for a training set; None for `none`.

        A high-pass is made from the moments of the set's blocks, and needs them.
        """
        self.require_fit(patch_size, preprocessing.channels)
        if self.kind == "highpass":
            if moments is None:
                raise ConfigurationError("shield: no moments of blocks were given")
            found = strongest(moments, preprocessing, self.dropped)
            return HighPass.of(found, patch_size)
        if self.kind == "noise":
            return Noise(patch_size, self.sigma, preprocessing.std)
        if self.kind == "magnitude":
            return Magnitude(patch_size, preprocessing.channels, self.dropped)
        return None


def shield_from(entries: Mapping[str, object], preprocessing: Preprocessing) -> Shield:
    """Read what `to_dict` wrote; every field must be there and no other.

    Raises:
        ConfigurationError: it is another form, or no shield.
    """
    kind = entries.get("kind")
    amounts = {"highpass": "dropped", "noise": "sigma", "magnitude": "dropped"}
    if not isinstance(kind, str) or kind not in amounts:
        known = ", ".join(amounts)
        raise ConfigurationError(f"shield.kind: expected {known}, got {kind!r:.40}")
    if wrong := entries.keys() ^ {"kind", "patch_size", amounts[kind]}:
        named = ", ".join(sorted(map(str, wrong)))
        raise ConfigurationError(f"shield: missing or unknown: {named}")
    patch_size = _whole("patch_size", entries["patch_size"])
    amount = entries[amounts[kind]]
    if kind == "magnitude":
        dropped = _whole("dropped", amount)
        return Magnitude(patch_size, preprocessing.channels, dropped)
    if kind == "highpass":
        return HighPass(patch_size, preprocessing.channels, _bytes(amount))
    if not isinstance(amount, int | float) or isinstance(amount, bool):
        raise ConfigurationError("shield.sigma: expected a number")
    return Noise(patch_size, float(amount), preprocessing.std)


def shielded(architecture: Architecture, shield: Shield | None) -> Architecture:
    """The network that reads what the shield leaves, in place of pictures."""
    if shield is None:
        return architecture
    a = architecture
    return replace(
        a, channels=shield.outputs, patch_size=1, height=a.rows, width=a.columns
    )


def apply(images: Images, shield: Shield, entropy: Entropy) -> Shielded:
    """Replace every block `x` of normalised images by `s(x)`, in their own precision.

    The slow and obvious way; `core.pixels` folds the same into one product.
    """
    if images.shape[1] != shield.channels:
        raise ShapeError(f"expected {shield.channels} channels, got {images.shape[1]}")
    blocks = to_blocks(images, shield.patch_size)
    if any(shield.deviations):
        drawn = normals(len(blocks), blocks[0:1].size, entropy).reshape(blocks.shape)
        blocks = blocks + drawn * spread(shield).astype(images.dtype)
    left = blocks @ shield.projection().T.astype(images.dtype)
    if shield.unsigned:
        left = np.abs(left)
    return rearrange(left, "n rows columns r -> n r rows columns")


def restore(images: Shielded, shield: Shield) -> Images:
    """What can be seen of the pictures: `P^T s(x)`, as what was dropped is not known.

    It is the pseudo-inverse. It undoes no noise, and takes every sign for a plus.
    """
    left = rearrange(images, "n r rows columns -> n rows columns r")
    if left.shape[-1] != shield.outputs:
        raise ShapeError(f"expected {shield.outputs} channels, got {left.shape[-1]}")
    blocks = left @ shield.projection().astype(images.dtype)
    return from_blocks(blocks, shield.patch_size, shield.channels)


def spread(shield: Shield) -> Float64[np.ndarray, " d"]:
    """The deviation of the noise of each number of a block, in a kernel's order."""
    each = np.array(shield.deviations)
    return repeat(each, "c -> (c k)", k=shield.patch_size**2)


def _require_block(patch_size: int, channels: int) -> int:
    dimension = channels * patch_size**2
    if patch_size < 1 or not 1 <= dimension <= MAX_DIMENSION:
        raise ConfigurationError(
            f"shield.patch_size: expected blocks of 1 to {MAX_DIMENSION} numbers, "
            f"got {patch_size}x{patch_size}x{channels}"
        )
    return dimension


def _require_fewer(dropped: int, dimension: int) -> None:
    if not 0 <= dropped < dimension:
        raise ConfigurationError(
            f"shield: a block has {dimension} numbers; expected to drop fewer, "
            f"got {dropped}"
        )


def _require_short(numbers: int) -> None:
    if numbers > MAX_NUMBERS:
        raise ConfigurationError(
            f"shield: dropped directions have at most {MAX_NUMBERS} numbers in all, "
            f"got {numbers}"
        )


def _require_dropped(count: int) -> int:
    if not 1 <= count < MAX_DIMENSION:
        raise ConfigurationError(
            f"shield: expected to drop 1 to {MAX_DIMENSION - 1} directions, got {count}"
        )
    return count


def _require_sigma(sigma: float) -> float:
    if not 0 < sigma <= MAX_SIGMA:
        raise ConfigurationError(
            f"shield: expected a sigma above 0, up to {MAX_SIGMA:g}, got {sigma:g}"
        )
    return sigma


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _whole(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigurationError(f"shield.{name}: expected a whole number")
    return value


def _bytes(value: object) -> bytes:
    """Read base64 in its one form: other bytes that say the same would be unsigned."""
    with contextlib.suppress(ValueError):
        if isinstance(value, str):
            found = base64.b64decode(value, validate=True)
            if base64.b64encode(found).decode() == value:
                return found
    raise ConfigurationError("shield.dropped: expected base64")
