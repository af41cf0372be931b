"""Labelled images, by name, from the user's own files, or by the user's own code.

`load` understands five forms:

* `cifar10`: 60,000 colour images of 32x32 in 10 classes; see `core.datasets.cifar10`
  for where they come from.
* `digits`: 1,797 grey images of 8x8 from scikit-learn, if it is installed.
* a folder with one subfolder a class; see `core.datasets.folder`.
* an `.npz` file; see `core.datasets.npz` for the names of its arrays.
* `MODULE:CLASS`, a user's own `Source`; see `core.datasets.own`.
"""

import re
from pathlib import Path

from core.datasets.cifar10 import load_cifar10
from core.datasets.digits import load_digits
from core.datasets.folder import FOLDER_SIZE, load_folder
from core.datasets.npz import load_npz
from core.datasets.own import is_own, load_own
from core.datasets.source import Dataset, OnProgress, Source, Split
from core.errors import ConfigurationError, DataError

__all__ = ["Dataset", "OnProgress", "Source", "Split", "image_size", "load", "name_of"]


def load(
    spec: str | Path,
    split: Split,
    on_progress: OnProgress | None = None,
    *,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
) -> Dataset:
    """Load one split of a dataset.

    `size` (height, width) is what the pictures of a folder (32x32 if it is not said) or
    of a user's own code (their own size) are fitted to, by way of `resize` as in
    `core.preprocessing` if it is given. The other forms hold what the model sees: they
    stay as they are, and must have the size if one is said. Raises `DataError` that
    says what to do.
    """
    report = on_progress or _ignore
    path = Path(spec).expanduser()
    if path.is_dir():
        fitted = size or FOLDER_SIZE
        return load_folder(path, split, size=fitted, on_progress=report, resize=resize)
    if is_own(str(spec)):
        return load_own(str(spec), split, report, size=size, resize=resize)
    return _of_size(_arrays(spec, path, split, report), size)


def name_of(spec: str) -> str:
    """What a manifest calls a dataset before anybody has loaded it."""
    return spec.rpartition(":")[2] if is_own(spec) else Path(spec).stem


def image_size(text: str) -> tuple[int, int] | None:
    """Read `224` or `192x256` as (height, width), in pixels; nothing said: None.

    Raises:
        ConfigurationError: it is neither.
    """
    if not text:
        return None
    if found := re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text):
        height, width = found.groups()
        return int(height), int(width or height)
    raise ConfigurationError(
        f"image size: expected a number of pixels, or HEIGHTxWIDTH, got {text!r:.40}"
    )


def _arrays(
    spec: str | Path, path: Path, split: Split, on_progress: OnProgress
) -> Dataset:
    if spec == "cifar10":
        return load_cifar10(split, on_progress)
    if spec == "digits":
        return load_digits(split)
    if path.is_file() and path.suffix == ".npz":
        return load_npz(path, split)
    raise DataError(
        f"{str(spec)!r} is neither `cifar10` nor `digits`, nor a folder with one"
        " subfolder a class, nor an .npz file, nor MODULE:CLASS"
    )


def _of_size(loaded: Dataset, size: tuple[int, int] | None) -> Dataset:
    found = loaded.images.shape[1:3]
    if size is not None and found != size:
        raise DataError(
            f"{loaded.name}: expected images of {size[0]}x{size[1]}, got "
            f"{found[0]}x{found[1]}; only files and a user's own pictures are fitted"
        )
    return loaded


def _ignore(_what: str, _done: int, _total: int | None) -> None:
    pass
