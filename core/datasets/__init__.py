"""Labelled images, by name or from the user's own files.

`load` understands four forms:

* `cifar10`: 60,000 colour images of 32x32 in 10 classes; see `core.datasets.cifar10`
  for where they come from.
* `digits`: 1,797 grey images of 8x8 from scikit-learn, if it is installed.
* a folder with one subfolder a class; see `core.datasets.folder`.
* an `.npz` file; see `core.datasets.npz` for the names of its arrays.
"""

from pathlib import Path

from core.datasets.cifar10 import load_cifar10
from core.datasets.digits import load_digits
from core.datasets.folder import load_folder
from core.datasets.npz import load_npz
from core.datasets.source import Dataset, OnProgress, Split
from core.errors import DataError

__all__ = ["Dataset", "OnProgress", "Split", "load"]


def load(
    spec: str | Path,
    split: Split,
    on_progress: OnProgress | None = None,
    *,
    size: tuple[int, int] = (32, 32),
    resize: int | None = None,
) -> Dataset:
    """Load one split of a dataset.

    `size` (height, width) is what the pictures of a folder are fitted to, by way of
    `resize` as in `core.preprocessing` if it is given; the other forms have a size of
    their own. Raises `DataError` that says what to do.
    """
    report = on_progress or _ignore
    if spec == "cifar10":
        return load_cifar10(split, report)
    if spec == "digits":
        return load_digits(split)
    path = Path(spec).expanduser()
    if path.is_dir():
        return load_folder(path, split, size=size, on_progress=report, resize=resize)
    if path.is_file() and path.suffix == ".npz":
        return load_npz(path, split)
    raise DataError(
        f"{str(spec)!r} is neither `cifar10` nor `digits`, nor a folder with one"
        " subfolder a class, nor an .npz file"
    )


def _ignore(_what: str, _done: int, _total: int | None) -> None:
    pass
