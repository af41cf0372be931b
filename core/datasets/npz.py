"""Datasets in one `.npz` file: uint8 images [n, h, w, c] or [n, h, w], and labels.

The arrays may be named `train_images`, `train_labels`, `test_images`, `test_labels`; or
`x_train`, `y_train`, `x_test`, `y_test`; or `images` and `labels` alone, of which the
last fifth of each class becomes the test split. `classes` or `class_names` is optional:
without it, classes are numbered.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy import ndarray

from core.datasets.source import Dataset, Split, dataset, held_out
from core.errors import CorruptFileError, DataError, KeymixerError

Arrays = Mapping[str, ndarray]

_NAMES: tuple[Mapping[str, tuple[str, str]], ...] = (
    {
        "train": ("train_images", "train_labels"),
        "test": ("test_images", "test_labels"),
    },
    {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},
)


def load_npz(path: Path, split: Split) -> Dataset:
    """Load one split of an `.npz` file; never unpickles anything."""
    with _opened(path) as arrays:
        if "images" in arrays and "labels" in arrays:
            return _one_pair(path, arrays, split)
        for names in _NAMES:
            if all(name in arrays for pair in names.values() for name in pair):
                images, labels = names[split]
                classes = _classes(arrays, [arrays[name] for _, name in names.values()])
                return dataset(path.stem, arrays[images], arrays[labels], classes)
        raise DataError(
            f"{path} has arrays {sorted(arrays)}; expected train_images, train_labels,"
            " test_images, test_labels, or x_train, y_train, x_test, y_test, or"
            " images, labels"
        )


def load_arrays(path: Path) -> tuple[ndarray, ndarray]:
    """Load `images` and `labels` whole, in their order."""
    with _opened(path) as arrays:
        if not {"images", "labels"} <= set(arrays):
            raise DataError(f"{path} has {sorted(arrays)}; expected images, labels")
        images, labels = arrays["images"], arrays["labels"]
        if len(images) != len(labels):
            raise DataError(f"{path}: {len(images)} images but {len(labels)} labels")
        return images, labels


def _one_pair(path: Path, arrays: Arrays, split: Split) -> Dataset:
    images, labels = arrays["images"], arrays["labels"].reshape(-1)
    if len(images) != len(labels):
        raise DataError(f"{path}: {len(images)} images but {len(labels)} labels")
    chosen = held_out(labels) == (split == "test")
    classes = _classes(arrays, [labels])
    return dataset(path.stem, images[chosen], labels[chosen], classes)


def _classes(arrays: Arrays, labels: list[ndarray]) -> tuple[str, ...]:
    for name in ("classes", "class_names"):
        if name in arrays:
            return tuple(str(value) for value in arrays[name].reshape(-1))
    top = max(int(part.max()) for part in labels if part.size)
    return tuple(str(value) for value in range(top + 1))


@contextmanager
def _opened(path: Path) -> Iterator[Arrays]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except KeymixerError:
        raise
    # zipfile and NumPy raise what they like of a file that is damaged.
    except Exception as error:
        raise CorruptFileError(f"{path} is not a readable .npz file") from error
