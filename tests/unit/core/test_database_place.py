"""A file is known by which file it is, not by what it holds or is called."""

import os
from pathlib import Path

import pytest

from core.database.place import unmoved
from core.errors import DatabaseMoved, StorageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    made = tmp_path / "folder" / "registry.db"
    made.write_bytes(b"one")
    return made


def test_a_file_that_is_written_is_still_the_same(file: Path) -> None:
    """A checkpoint of SQLite's changes its size and its times."""
    check = unmoved(file)
    with file.open("ab") as opened:
        opened.write(b", two")
    os.utime(file, (0, 0))

    check()


def test_another_file_with_the_same_content_is_another(file: Path) -> None:
    check = unmoved(file)
    aside = file.rename(file.with_suffix(".aside"))
    file.write_bytes(aside.read_bytes())

    with pytest.raises(DatabaseMoved, match="not the file"):
        check()
    aside.replace(file)
    check()


def test_a_place_that_cannot_be_looked_at_is_a_storage_error(file: Path) -> None:
    check = unmoved(file)
    file.unlink()
    file.parent.rmdir()
    file.parent.write_bytes(b"a file where the folder was")

    with pytest.raises(StorageError, match="cannot look"):
        check()
