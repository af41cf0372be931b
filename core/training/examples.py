"""Images to learn from, each with its class, and what makes them fit a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from core.architecture import Architecture
from core.errors import DataError
from core.shielding import Shielding

Images = Float32[np.ndarray, "n c h w"]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Normalised images and the index of each one's class.

    With `shield` a model reads what it leaves of them: it is applied to every batch,
    after the images were cropped and flipped.
    """

    images: Images
    labels: Int64[np.ndarray, " n"]
    shield: Shielding | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.float32 or self.images.ndim != len("nchw"):
            raise DataError(
                f"expected float32 images of 4 axes, got {self.images.dtype} "
                f"of {self.images.ndim}"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"expected {len(self.images)} int64 labels, "
                f"got {self.labels.dtype} {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)


def require_fit(train: Examples, a: Architecture) -> None:
    """Raise `DataError` unless a model of this shape can learn from the images."""
    if len(train) < 2:  # noqa: PLR2004  BatchNorm has no variance of one image
        raise DataError(f"expected at least 2 images to train on, got {len(train)}")
    if (got := _read_shape(train)) != (a.channels, a.height, a.width):
        raise DataError(
            f"expected images of {(a.channels, a.height, a.width)}, got {got}"
        )
    if train.labels.min() < 0 or train.labels.max() >= a.classes:
        raise DataError(f"expected labels of 0 to {a.classes - 1}")


def require_every_class(counts: Sequence[int], classes: Sequence[str]) -> None:
    """Raise `DataError` if a class has no image: its answer would be learned never.

    Args:
        counts: Training images of each class.
        classes: Their names.
    """
    empty = [name for name, n in zip(classes, counts, strict=True) if not n]
    if empty:
        named = ", ".join(f"{name!r:.40}" for name in empty[:8])
        raise DataError(
            f"{len(empty)} of {len(classes)} classes without a training image: {named}"
        )


def _read_shape(train: Examples) -> tuple[int, ...]:
    """What of an image the model reads: all of it, or what the shield leaves."""
    channels, height, width = train.images.shape[1:]
    if train.shield is None:
        return channels, height, width
    outputs, _, side, _ = train.shield.kernel.shape
    return outputs, height // side, width // side
