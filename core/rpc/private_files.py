"""Files that are whole or absent; those that hold a private key have mode 0600."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import ConfigurationError, CorruptFileError, StorageError


def ensure_private(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the file's content; a missing file is made first, and only once.

    Two processes that race here end up with the same content: the file appears under
    its name complete, by a hard link, and the slower process reads the faster's file.
    """
    if not path.exists():
        try:
            _create(path, make())
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
    return read_private(path)


def read_private(path: Path) -> bytes:
    """Return the content of a file that only its owner may read."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigurationError(
                f"{path} may be read by others (mode {mode:04o}): run chmod 600 {path}"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} is missing") from error
    except OSError as error:
        raise CorruptFileError(f"cannot read {path}: {error.strerror}") from error


def write_public(path: Path, data: bytes) -> None:
    """Replace a file that anyone may read, at once or not at all."""
    _replace(path, data, 0o644)


def replace_private(path: Path, data: bytes) -> None:
    """Replace a file that only its owner may read, at once or not at all."""
    _replace(path, data, 0o600)


def _replace(path: Path, data: bytes, mode: int) -> None:
    try:
        with _draft(path, data, mode) as draft:
            draft.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _create(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _draft(path, data, 0o600) as draft, suppress(FileExistsError):
        path.hardlink_to(draft)
    _sync_folder(path.parent)


@contextmanager
def _draft(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """Yield a file beside `path` that is on disk, and is gone when the block ends."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
