"""Datasets that are a folder of PNG and JPEG files, one subfolder a class.

Either `FOLDER/<class>/*`, of which the last fifth of each class in name order is the
test split, or `FOLDER/train/<class>/*` and `FOLDER/test/<class>/*`.
"""

from pathlib import Path
from typing import Final

import numpy as np

from core.datasets.files import SUFFIXES, read_image
from core.datasets.source import Dataset, OnProgress, Split, dataset, held_out
from core.errors import DataError
from core.preprocessing import Preprocessing

# What pictures are fitted to if nobody says a size.
FOLDER_SIZE: Final = (32, 32)


def load_folder(
    folder: Path,
    split: Split,
    *,
    size: tuple[int, int],
    on_progress: OnProgress,
    resize: int | None = None,
) -> Dataset:
    """Load one split, every picture fitted to `size` (height, width) in colour.

    With `resize` as a manifest's preprocessing says it.
    """
    classes, files, labels = _listed(folder, split)
    height, width = size
    unscaled = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    shape = Preprocessing(height, width, 3, **unscaled, resize=resize)
    images = np.empty((len(files), height, width, 3), dtype=np.uint8)
    for index, path in enumerate(files):
        images[index] = read_image(path, shape)
        on_progress(f"reading {folder.name}", index + 1, len(files))
    return dataset(folder.name, images, labels, classes)


def _listed(
    folder: Path, split: Split
) -> tuple[tuple[str, ...], list[Path], np.ndarray]:
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        classes = _class_names(folder / "train")
        _check_same_classes(folder, classes)
        files, labels = _files(folder / split, classes)
        return classes, files, labels
    classes = _class_names(folder)
    files, labels = _files(folder, classes)
    chosen = np.flatnonzero(held_out(labels) == (split == "test"))
    return classes, [files[index] for index in chosen], labels[chosen]


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )
    if not names[1:]:
        raise DataError(
            f"{folder} has {len(names)} subfolders; put the pictures of each class"
            " in a subfolder of its own, at least two"
        )
    return tuple(names)


def _check_same_classes(folder: Path, classes: tuple[str, ...]) -> None:
    unknown = set(_class_names(folder / "test")) - set(classes)
    if unknown:
        raise DataError(f"{folder}: classes in test/ but not train/: {sorted(unknown)}")


def _files(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    """List the pictures class by class, in name order; a class may have none here."""
    found: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = (folder / name).rglob("*") if (folder / name).is_dir() else ()
        paths = sorted(path for path in inside if path.suffix.lower() in SUFFIXES)
        found += paths
        labels += [label] * len(paths)
    if not found:
        raise DataError(f"{folder}: no PNG or JPEG files in its subfolders")
    return found, np.array(labels, dtype=np.int64)
