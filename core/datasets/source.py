"""A dataset: labelled 8-bit images, with a digest that says exactly which."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from numpy import ndarray

from core.errors import DataError

Split = Literal["train", "test"]
Images = UInt8[ndarray, "n height width channels"]
Labels = Int64[ndarray, " n"]

# What is being done, how much of it is done, and of how much (None: nobody knows).
OnProgress = Callable[[str, int, int | None], None]
# A PNG or JPEG file, or uint8 pixels [height, width] or [height, width, 1 or 3].
Picture = Path | UInt8[ndarray, "..."]


class Source(Protocol):
    """What a user writes to bring a dataset of their own; it is made without arguments.

    `core.datasets.own` has an example, in ten lines.
    """

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, in the order of their numbers."""
        ...

    def examples(self, split: Split) -> Iterable[tuple[Picture, int]]:
        """Each picture of one split, of any size, with the number of its class."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One split: uint8 images [n, height, width, channels] and int64 labels [n].

    `digest` is the SHA-256, in hex, over shape, images, labels and class names.
    """

    name: str
    images: Images = field(repr=False)
    labels: Labels = field(repr=False)
    classes: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def dataset(
    name: str, images: ndarray, labels: ndarray, classes: tuple[str, ...]
) -> Dataset:
    """Check images and labels, make them read-only, and name them by their digest."""
    images = np.ascontiguousarray(_checked_images(name, images))
    labels = np.ascontiguousarray(_checked_labels(name, labels, len(classes)))
    if len(images) != len(labels):
        raise DataError(f"{name}: {len(images)} images but {len(labels)} labels")
    if not len(images):
        raise DataError(f"{name}: no images")
    images.setflags(write=False)
    labels.setflags(write=False)
    return Dataset(name, images, labels, classes, _digest(images, labels, classes))


def held_out(labels: Labels) -> Bool[ndarray, " n"]:
    """Mark the last fifth of each class, in the order given, as the test split.

    A run at the end, not every fifth: neighbours in name order are often pictures of
    the same thing, and must not lie on both sides.
    """
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        count = max(len(where) // 5, min(1, len(where) - 1))
        held[where[len(where) - count :]] = True
    return held


def _checked_images(name: str, images: ndarray) -> ndarray:
    if images.dtype != np.uint8:
        raise DataError(f"{name}: images are {images.dtype}, expected uint8")
    match images.shape:
        case (_, _, _, 1 | 3):
            return images
        case (_, _, _):  # grey images without a channel axis
            return images[..., np.newaxis]
    raise DataError(
        f"{name}: images are {list(images.shape)}, expected [n, height, width, 1 or 3]"
    )


def _checked_labels(name: str, labels: ndarray, classes: int) -> ndarray:
    match labels.shape:
        case (count, 1):  # one column, as MedMNIST has them
            labels = labels.reshape(count)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{name}: labels must be one integer an image")
    labels = labels.astype(np.int64)
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(f"{name}: a label is outside 0..{classes - 1}")
    return labels


def _digest(images: Images, labels: Labels, classes: tuple[str, ...]) -> str:
    running = hashlib.sha256(repr((images.shape, classes)).encode())
    running.update(images.data)
    running.update(labels.astype("<i8").tobytes())
    return running.hexdigest()
