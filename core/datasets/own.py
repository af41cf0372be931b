"""A user's own dataset, named as `MODULE:CLASS`: a `Source` of about ten lines.

    import csv
    from pathlib import Path

    class Cells:
        classes = ("healthy", "ill")

        def examples(self, split):
            with open(f"/data/cells/{split}.csv") as table:
                for row in csv.DictReader(table):
                    yield Path("/data/cells", row["file"]), int(row["ill"])

Saved as `cells.py` where the command runs, it is `--data cells:Cells`. Files and pixels
go through the same steps as a data owner's pictures.

Naming a class imports its module, and so runs it: name only what you would run.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from core.datasets.files import open_image
from core.datasets.images import fit, upright
from core.datasets.source import (
    Dataset,
    OnProgress,
    Picture,
    Source,
    Split,
    dataset,
)
from core.errors import ConfigurationError, DataError
from core.preprocessing import Preprocessing

_OWN = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def is_own(spec: str) -> bool:
    """Whether a name is `MODULE:CLASS`."""
    return _OWN.fullmatch(spec) is not None


def load_own(
    spec: str,
    split: Split,
    on_progress: OnProgress,
    *,
    size: tuple[int, int] | None,
    resize: int | None,
) -> Dataset:
    """Load one split of a user's own dataset, its pictures fitted to `size`.

    Without a size they must all have the size of the first. The first also says whether
    pictures are grey or colour; a file is colour.

    Raises:
        DataError: the class is not there or is no `Source`, or pictures differ in size.
        ConfigurationError: a resize, but no size to cut out afterwards.
        NotAnImageError: a file is not a readable picture.
    """
    if resize is not None and size is None:
        raise ConfigurationError("resize: say what is cut out, too: --image-size")
    source = _made(spec)
    name = spec.rpartition(":")[2]
    images, labels, shape = [], [], None
    for number, (picture, label) in enumerate(source.examples(split), start=1):
        image = _opened(name, picture)
        shape = shape or _shape(picture, image, size, resize)
        if size is None:
            _require_same(name, image, shape)
        images.append(fit(image, shape))
        labels.append(label)
        on_progress(f"reading {name}", number, None)
    if not images:
        raise DataError(f"{name}: no images in {split!r}")
    return dataset(name, np.stack(images), np.array(labels), tuple(source.classes))


def _made(spec: str) -> Source:
    module, _, name = spec.partition(":")
    try:
        with _here_last():
            made = getattr(importlib.import_module(module), name)()
    except ModuleNotFoundError as error:
        raise DataError(
            f"{spec}: no module {error.name}; it must lie here, or be installed"
        ) from error
    except AttributeError as error:
        raise DataError(f"{spec}: {error}") from error
    if not all(hasattr(made, part) for part in ("classes", "examples")):
        raise DataError(f"{spec}: expected `classes` and `examples(split)`")
    source: Source = made
    return source


@contextmanager
def _here_last() -> Iterator[None]:
    """Find modules in the current folder too, but never before those installed."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def _opened(name: str, picture: Picture) -> Image.Image:
    if isinstance(picture, Path):
        return upright(open_image(picture))
    pixels = np.asarray(picture)
    match pixels.shape:
        case (_, _, 1):
            pixels = pixels[..., 0]
        case (_, _) | (_, _, 3):
            pass
        case shape:
            raise DataError(
                f"{name}: a picture is {list(shape)}, expected a Path, or pixels"
                " [height, width] or [height, width, 1 or 3]"
            )
    if pixels.dtype != np.uint8:
        raise DataError(f"{name}: pixels are {pixels.dtype}, expected uint8")
    return Image.fromarray(pixels)


def _shape(
    picture: Picture,
    image: Image.Image,
    size: tuple[int, int] | None,
    resize: int | None,
) -> Preprocessing:
    height, width = size or (image.height, image.width)
    grey = not isinstance(picture, Path) and image.mode == "L"
    channels = 1 if grey else 3
    unscaled = ((0.0,) * channels, (1.0,) * channels)
    return Preprocessing(height, width, channels, *unscaled, resize=resize)


def _require_same(name: str, image: Image.Image, shape: Preprocessing) -> None:
    if (image.height, image.width) != (shape.height, shape.width):
        raise DataError(
            f"{name}: a picture is {image.height}x{image.width}, the first is"
            f" {shape.height}x{shape.width}; say what all are fitted to: --image-size"
        )
