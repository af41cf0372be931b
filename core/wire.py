"""Tensors to bytes and back, and files that are whole or not there; never pickle."""

import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as build_safetensors

from core.errors import (
    CorruptFileError,
    DtypeError,
    NonFiniteError,
    NotFound,
    ShapeError,
    StorageError,
    TooLargeError,
    TruncatedError,
)

# The default bound on one tensor: as many bytes as a message may have.
MAX_TENSOR_BYTES: Final = 16 << 20
# An image batch has 4; NumPy stops at 64.
MAX_AXES: Final = 8
# Weights are float32; BatchNorm counts its batches in int64.
STORED_DTYPES: Final = frozenset({np.dtype("<f4"), np.dtype("<i8")})

Buffer = bytes | bytearray | memoryview


def to_bytes(array: Float32[np.ndarray, "..."]) -> bytes:
    """Pack a float32 array as raw little-endian bytes, row-major."""
    if array.dtype != np.float32:
        raise DtypeError(f"expected float32, got {array.dtype}")
    require_finite(array)
    return array.astype("<f4", copy=False).tobytes()


def from_bytes(
    data: Buffer,
    shape: Sequence[int],
    datatype: str = "FP32",
    *,
    max_bytes: int = MAX_TENSOR_BYTES,
) -> Float32[np.ndarray, "..."]:
    """Unpack what `to_bytes` packed, as a read-only view of `data`.

    `datatype` is the Open Inference Protocol's name. Everything is checked before a
    number is believed: type, shape, size, length, and that each value is finite.
    """
    if datatype != "FP32":
        raise DtypeError(f"expected FP32, got {datatype[:16]!r}")
    require_size(data, shape, 4, max_bytes)
    array = np.frombuffer(data, dtype="<f4").reshape(tuple(shape))
    require_finite(array)
    array.flags.writeable = False
    return array


def require_size(
    data: Buffer, shape: Sequence[int], width: int, max_bytes: int
) -> None:
    """Raise unless `data` is exactly `shape` numbers of `width` bytes, and not many."""
    if not 0 < len(shape) <= MAX_AXES or any(size < 1 for size in shape):
        raise ShapeError(f"expected 1 to {MAX_AXES} sizes of 1 up, got {shape!s:.80}")
    expected = width * math.prod(shape)
    if max(expected, len(data)) > max_bytes:
        raise TooLargeError(
            f"{max(expected, len(data))} bytes, the limit is {max_bytes}"
        )
    if len(data) != expected:
        raise TruncatedError(f"{tuple(shape)} is {expected} bytes, got {len(data)}")


def require_finite(array: np.ndarray) -> None:
    """Raise `NonFiniteError` if a number is NaN or infinity."""
    if not np.isfinite(array).all():
        raise NonFiniteError("a tensor holds NaN or infinity")


def dump_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Pack named tensors as safetensors; equal tensors give equal bytes."""
    for name, tensor in tensors.items():
        _require_storable(name, tensor)
    # safetensors would write a strided view in the wrong order without a word.
    return build_safetensors({n: np.asarray(t, order="C") for n, t in tensors.items()})


def save_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], mode: int = 0o600
) -> None:
    """Write named tensors to a safetensors file, atomically."""
    write_atomically(path, dump_tensors(tensors), mode)


def load_tensors(source: Path | bytes) -> dict[str, np.ndarray]:
    """Read named tensors from a safetensors file, or from its bytes."""
    data = source if isinstance(source, bytes) else read_file(source)
    try:
        tensors: dict[str, np.ndarray] = parse_safetensors(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"not a safetensors file: {error}") from error
    for name, tensor in tensors.items():
        _require_storable(name, tensor)
    return tensors


def file_digest(source: Path | bytes) -> str:
    """Return the SHA-256 of a file, or of its bytes, in hex."""
    data = source if isinstance(source, bytes) else read_file(source)
    return hashlib.sha256(data).hexdigest()


def read_file(path: Path) -> bytes:
    """Read a whole file; a missing one and an unreadable one are different errors."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file so that a crash leaves the old one or the new one, never a half.

    The bytes are on disk before the name: write aside, fsync, rename, fsync the folder.
    """
    try:
        aside = _write_aside(path, data, mode)
        try:
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _write_aside(path: Path, data: bytes, mode: int) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    return Path(name)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_storable(name: str, tensor: np.ndarray) -> None:
    if tensor.dtype not in STORED_DTYPES:
        raise DtypeError(f"{name}: expected float32 or int64, got {tensor.dtype}")
    require_finite(tensor)
