"""From pixels to the numbers a model reads, and back for pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from einops import rearrange
from jaxtyping import Float32, UInt8

from core.architecture import MAX_SIZE
from core.errors import ConfigurationError, DtypeError, NonFiniteError, ShapeError

Pixels = UInt8[np.ndarray, "n h w c"]
Images = Float32[np.ndarray, "n c h w"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a model expects of a picture; `mean` and `std` are on the scale 0..1.

    With `resize` the shorter side of a picture is scaled to so many pixels before its
    centre is cut out; without it, to what just covers height and width.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None

    def __post_init__(self) -> None:
        for name in ("height", "width", "channels"):
            _require_size(name, getattr(self, name))
        for name in ("mean", "std"):
            _require_numbers(name, getattr(self, name), self.channels)
        if min(self.std) <= 0:
            raise ConfigurationError("std: expected numbers above 0")
        if self.resize is not None:
            _require_cover(self.resize, self.height, self.width)

    def to_dict(self) -> dict[str, object]:
        """One form for each: without `resize` it is not named."""
        entries = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        if self.resize is None:
            del entries["resize"]
        return entries

    @classmethod
    def from_dict(cls, entries: Mapping[str, object]) -> "Preprocessing":
        """Read what `to_dict` wrote; every field must be there and no other."""
        names = {field.name for field in fields(cls)} - {"resize"}
        if wrong := (entries.keys() - {"resize"}) ^ names:
            named = ", ".join(sorted(map(str, wrong)))
            raise ConfigurationError(f"preprocessing: missing or unknown: {named}")
        more = {}
        if "resize" in entries:
            more["resize"] = _require_size("resize", entries["resize"])
        channels = _require_size("channels", entries["channels"])
        return cls(
            height=_require_size("height", entries["height"]),
            width=_require_size("width", entries["width"]),
            channels=channels,
            mean=_require_numbers("mean", entries["mean"], channels),
            std=_require_numbers("std", entries["std"], channels),
            **more,
        )


def normalise(pixels: Pixels, p: Preprocessing) -> Images:
    """Scale pixels to 0..1, then to mean 0 and deviation 1 for each channel.

    This comes before the key: `x' = A x` of normalised `x`, so that the bias of the
    patch embedding stays as it is.
    """
    if pixels.dtype != np.uint8:
        raise DtypeError(f"expected uint8 pixels, got {pixels.dtype}")
    expected = (p.height, p.width, p.channels)
    if pixels.ndim != len("nhwc") or pixels.shape[1:] != expected:
        raise ShapeError(f"expected (n, {expected}) pixels, got {pixels.shape}")
    scaled = pixels.astype(np.float32) / np.float32(255)
    centred = (scaled - _float32(p.mean)) / _float32(p.std)
    return np.ascontiguousarray(rearrange(centred, "n h w c -> n c h w"))


def denormalise(images: Images, p: Preprocessing) -> Pixels:
    """Turn normalised images into pixels for the eye, clipped to their range."""
    expected = (p.channels, p.height, p.width)
    if images.ndim != len("nchw") or images.shape[1:] != expected:
        raise ShapeError(f"expected (n, {expected}) images, got {images.shape}")
    if not np.isfinite(images).all():
        raise NonFiniteError("images hold NaN or infinity")
    colours = rearrange(images, "n c h w -> n h w c")
    scaled = colours * _float32(p.std) + _float32(p.mean)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def _float32(numbers: tuple[float, ...]) -> Float32[np.ndarray, " c"]:
    return np.array(numbers, dtype=np.float32)


def _require_size(name: str, value: object) -> int:
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not 1 <= value <= MAX_SIZE
    ):
        raise ConfigurationError(f"{name}: expected 1 to {MAX_SIZE}, got {value!r:.40}")
    return value


def _require_cover(resize: int, height: int, width: int) -> None:
    _require_size("resize", resize)
    if resize < max(height, width):
        raise ConfigurationError(
            f"resize: expected at least {max(height, width)}, so that a picture covers "
            f"{height}x{width}, got {resize}"
        )


def _require_numbers(name: str, value: object, count: int) -> tuple[float, ...]:
    numbers = (
        value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    )
    if len(numbers) != count or not all(_is_number(number) for number in numbers):
        raise ConfigurationError(
            f"{name}: expected {count} finite numbers, one a channel"
        )
    return tuple(float(number) for number in numbers)


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
