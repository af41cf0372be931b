"""The shape of a ConvMixer, as a manifest writes it; needs no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final, Literal, Self, get_args

from core.errors import ConfigurationError

# Far above any published ConvMixer, far below what exhausts a machine by one number.
MAX_SIZE: Final = 65_536
# 224x224 images in patches of 16 make 768. A key is a square of this size.
MAX_DIMENSION: Final = 1024
MAX_DEPTH: Final = 256
# Weights of the patch embedding: 64 MiB in float32.
MAX_EMBEDDING: Final = 16 * 1024**2

Activation = Literal["gelu", "relu"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that fix every weight's shape (Trockman & Kolter, arXiv 2201.09792).

    `height`, `width` and `patch_size` are in pixels; `hidden` is the width of a token.
    `activation` is the paper's GELU, or the ReLU of its published 768/32; a manifest
    names it only if it is not GELU.
    """

    hidden: int = 128
    depth: int = 4
    kernel_size: int = 5
    patch_size: int = 4
    channels: int = 3
    height: int = 32
    width: int = 32
    classes: int = 10
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        for name in _sizes():
            _require_size(name, getattr(self, name))
        _require_activation(self.activation)
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

    def to_dict(self) -> dict[str, int | str]:
        """One form for each: a manifest from before the choice stays as signed."""
        entries = asdict(self)
        if self.activation == "gelu":
            del entries["activation"]
        return entries

    @classmethod
    def from_dict(cls, entries: Mapping[str, object]) -> Self:
        """Read what `to_dict` wrote; every field must be there and no other."""
        names = _sizes()
        if wrong := (entries.keys() - {"activation"}) ^ names:
            named = ", ".join(sorted(map(str, wrong)))
            raise ConfigurationError(f"architecture: missing or unknown: {named}")
        sizes = {name: _require_size(name, entries[name]) for name in names}
        activation: Activation = "gelu"
        if "activation" in entries:
            activation = _require_activation(entries["activation"])
            if activation == "gelu":
                raise ConfigurationError("activation: gelu is said by leaving it out")
        return cls(**sizes, activation=activation)


def _sizes() -> set[str]:
    return {field.name for field in fields(Architecture)} - {"activation"}


def _require_activation(value: object) -> Activation:
    for known in get_args(Activation):
        if type(value) is str and value == known:
            found: Activation = known
            return found
    known = " or ".join(get_args(Activation))
    raise ConfigurationError(f"activation: expected {known}, got {value!r:.40}")


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
