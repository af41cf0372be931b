"""The shape of a ConvMixer, as a manifest writes it; needs no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final, Self

from core.errors import ConfigurationError

# Far above any published ConvMixer, far below what exhausts a machine by one number.
MAX_SIZE: Final = 65_536
# 224x224 images in patches of 16 make 768. A key is a square of this size.
MAX_DIMENSION: Final = 1024
MAX_DEPTH: Final = 256
# Weights of the patch embedding: 64 MiB in float32.
MAX_EMBEDDING: Final = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that fix every weight's shape (Trockman & Kolter, arXiv 2201.09792).

    `height`, `width` and `patch_size` are in pixels; `hidden` is the width of a token.
    """

    hidden: int = 128
    depth: int = 4
    kernel_size: int = 5
    patch_size: int = 4
    channels: int = 3
    height: int = 32
    width: int = 32
    classes: int = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            _require_size(field.name, getattr(self, field.name))
        if self.height % self.patch_size or self.width % self.patch_size:
            raise ConfigurationError(
                f"patch_size: {self.height}x{self.width} images do not split into "
                f"{self.patch_size}x{self.patch_size} patches"
            )
        _require_bound("depth", self.depth, MAX_DEPTH)
        _require_bound("channels x patch_size^2", self.dimension, MAX_DIMENSION)
        weights = self.hidden * self.dimension
        _require_bound("hidden x channels x patch_size^2", weights, MAX_EMBEDDING)

    @property
    def dimension(self) -> int:
        """D, the numbers in one patch: channels x patch_size x patch_size."""
        return self.channels * self.patch_size**2

    @property
    def rows(self) -> int:
        return self.height // self.patch_size

    @property
    def columns(self) -> int:
        return self.width // self.patch_size

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: Mapping[str, object]) -> Self:
        """Read what `to_dict` wrote; every field must be there and no other."""
        names = {field.name for field in fields(cls)}
        if entries.keys() != names:
            wrong = ", ".join(sorted(map(str, entries.keys() ^ names)))
            raise ConfigurationError(f"architecture: missing or unknown: {wrong}")
        return cls(**{name: _require_size(name, entries[name]) for name in names})


def _require_size(name: str, value: object) -> int:
    # bool is an int to Python, but `depth: true` is a mistake.
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not 1 <= value <= MAX_SIZE
    ):
        raise ConfigurationError(f"{name}: expected 1 to {MAX_SIZE}, got {value!r:.40}")
    return value


def _require_bound(name: str, value: int, bound: int) -> None:
    if value > bound:
        raise ConfigurationError(f"{name}: expected at most {bound}, got {value}")
