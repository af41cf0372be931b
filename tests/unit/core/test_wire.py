"""Bytes in and out: everything is checked, and a file is whole or not there."""

import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from core import wire
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

TENSORS: dict[str, np.ndarray] = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "count": np.array(7, dtype=np.int64),
}


def test_bytes_are_little_endian_and_row_major() -> None:
    array = np.array([[1, 2], [3, 4]], dtype=np.float32)

    assert wire.to_bytes(array).hex() == "0000803f000000400000404000008040"
    assert wire.to_bytes(array.T).hex() == "0000803f000040400000004000008040"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_read_cannot_be_written(kind: type) -> None:
    array = wire.from_bytes(kind(bytes(8)), (2,))

    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int32])
def test_only_float32_is_sent(dtype: type) -> None:
    with pytest.raises(DtypeError):
        wire.to_bytes(np.zeros(3, dtype=dtype))


@pytest.mark.parametrize(
    "datatype", ["FP16", "FP64", "UINT8", "BYTES", "", "x" * 10_000]
)
def test_only_float32_is_received(datatype: str) -> None:
    with pytest.raises(DtypeError) as caught:
        wire.from_bytes(bytes(12), (3,), datatype)

    assert len(str(caught.value)) < 60


@pytest.mark.parametrize("length", [0, 4, 11, 13, 16, 1000])
def test_bytes_that_do_not_fill_the_shape_are_refused(length: int) -> None:
    with pytest.raises(TruncatedError, match="is 12 bytes"):
        wire.from_bytes(bytes(length), (3,))


@pytest.mark.parametrize(
    "shape", [(), (0,), (-1,), (3, -1), (-1, -3), (1,) * 65, (0, 2**62), (1,) * 100_000]
)
def test_a_shape_that_cannot_be_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError) as caught:
        wire.from_bytes(bytes(12), shape)

    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("shape", [(2**62,), (2**40, 2**40), (5,)])
def test_a_tensor_over_the_limit_is_refused_before_it_is_allocated(
    shape: tuple[int, ...],
) -> None:
    with pytest.raises(TooLargeError, match="the limit is 16"):
        wire.from_bytes(b"", shape, max_bytes=16)


def test_bytes_over_the_limit_are_refused_whatever_their_shape() -> None:
    with pytest.raises(TooLargeError):
        wire.from_bytes(bytes(20), (1,), max_bytes=16)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_neither_sent_nor_received_nor_stored(
    bad: float,
) -> None:
    array = np.array([1, bad, 3], dtype=np.float32)

    with pytest.raises(NonFiniteError):
        wire.to_bytes(array)
    with pytest.raises(NonFiniteError):
        wire.from_bytes(array.tobytes(), (3,))
    with pytest.raises(NonFiniteError):
        wire.dump_tensors({"weight": array})


# --- safetensors ---


def test_a_file_gives_back_its_tensors(tmp_path: Path) -> None:
    """A scalar stays one, as BatchNorm's counter must."""
    path = tmp_path / "model.safetensors"
    wire.save_tensors(path, TENSORS)
    loaded = wire.load_tensors(path)

    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert_array_equal(loaded[name], tensor)


def test_equal_tensors_give_equal_bytes_in_any_order() -> None:
    backwards = dict(reversed(TENSORS.items()))

    assert wire.dump_tensors(TENSORS) == wire.dump_tensors(backwards)


def test_a_strided_view_is_written_as_it_reads() -> None:
    """safetensors alone writes its memory instead."""
    view = TENSORS["weight"].T

    assert_array_equal(wire.load_tensors(wire.dump_tensors({"w": view}))["w"], view)


def test_a_digest_is_sha256_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")

    assert wire.file_digest(path) == hashlib.sha256(b"abc").hexdigest()
    assert wire.file_digest(b"abc") == wire.file_digest(path)


def _file(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


WHOLE = wire.dump_tensors(TENSORS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04K\x01.",  # a pickle
        WHOLE[:4],
        WHOLE[:40],
        WHOLE[:-1],
        WHOLE + b"\x00",
        b"\xff" * 8 + WHOLE[8:],
        _file([]),
        _file({"w": {}}),
        _file({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        _file({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        _file({"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        _file({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        _file({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
    ],
)
def test_a_corrupt_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)

    with pytest.raises(CorruptFileError):
        wire.load_tensors(data)
    with pytest.raises(CorruptFileError):
        wire.load_tensors(path)


@pytest.mark.parametrize("dtype", ["F64", "F16", "U8", "I32", "BOOL"])
def test_tensors_of_another_type_are_refused(dtype: str) -> None:
    size = {"F64": 8, "F16": 2, "U8": 1, "I32": 4, "BOOL": 1}[dtype]
    entry = {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}

    with pytest.raises(DtypeError, match="w: expected float32 or int64"):
        wire.load_tensors(_file({"w": entry}, bytes(size)))


def test_stored_numbers_that_are_none_are_refused() -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}

    with pytest.raises(NonFiniteError):
        wire.load_tensors(_file({"w": entry}, b"\x00\x00\xc0\x7f"))


def test_a_missing_file_is_not_found_and_a_folder_is_not_readable(
    tmp_path: Path,
) -> None:
    with pytest.raises(NotFound):
        wire.load_tensors(tmp_path / "none.safetensors")
    with pytest.raises(StorageError):
        wire.load_tensors(tmp_path)


# --- writing ---


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_has_the_mode_it_was_given_whatever_the_umask(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "file"
    former = os.umask(0o077)
    try:
        wire.write_atomically(path, b"new", mode)
    finally:
        os.umask(former)

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file"
    wire.write_atomically(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=os.strerror(code)):
        wire.write_atomically(path, b"new")

    assert [path] == list(tmp_path.iterdir())
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_real_full_device_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own ENOSPC, met by the write and not by the sync."""
    aside = tmp_path / "aside"
    aside.touch()

    def full_device(**_: object) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), str(aside)

    monkeypatch.setattr("tempfile.mkstemp", full_device)
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    with pytest.raises(StorageError, match="No space left"):
        wire.write_atomically(tmp_path / "file", b"new")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        wire.write_atomically(tmp_path / "none" / "file", b"")


def test_a_name_that_cannot_be_replaced_leaves_no_litter(tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.mkdir()
    with pytest.raises(StorageError):
        wire.write_atomically(folder, b"")

    assert [folder] == list(tmp_path.iterdir())


def test_the_bytes_are_synced_before_the_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut may leave an empty file under the new name."""
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def watched_sync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("folder" if is_folder else "bytes")
        sync(descriptor)

    def watched_replace(source: Path, target: Path) -> Path:
        events.append("name")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    wire.write_atomically(tmp_path / "file", b"new")

    assert events == ["bytes", "name", "folder"]
