"""The folder where a training stands: after a kill it goes on from what it kept last.

FOLDER/training/NAME/
    plan.json                what was asked for, and the seed that was drawn
    STEM-0003.safetensors    all tensors after the third epoch, as secret as a key
    progress.json            names that file, and what is told of it
    lock                     held while a process trains here
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy import ndarray

from core.errors import CorruptFileError, StorageError
from core.wire import (
    dump_tensors,
    file_digest,
    load_tensors,
    read_file,
    write_atomically,
)
from parties.model_provider.errors import TrainingChangedError, TrainingRunsError

_PLAN: Final = "plan.json"
_PROGRESS: Final = "progress.json"
_LOCK: Final = "lock"


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one training; whoever has it holds its lock."""

    folder: Path

    def begin(self, asked: Mapping[str, Any], drawn: int) -> int:
        """Return the seed of the training that is here, or begin one with `drawn`.

        Raises:
            TrainingChangedError: what is here was begun with other options.
        """
        begun = self.document(_PLAN)
        if begun is None:
            self.write(_PLAN, {"plan": asked, "drawn": drawn})
            return drawn
        require_same("plan", begun["plan"], asked)
        return int(begun["drawn"])

    def document(self, name: str) -> dict[str, Any] | None:
        """Read a JSON document of this folder; None: there is none."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            content: dict[str, Any] = json.loads(read_file(path))
        except ValueError as error:
            raise CorruptFileError(f"{path} cannot be read") from error
        return content

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON document into this folder."""
        write_atomically(self.folder / name, json.dumps(content, indent=2).encode())

    def keep(
        self, stem: str, tensors: Mapping[str, ndarray], told: Mapping[str, Any]
    ) -> None:
        """Keep how far it is; what was kept before stays until this is on disk.

        Args:
            stem: A name that nothing was kept under before.
            tensors: float32 or int64.
            told: What else is to be known, for JSON.
        """
        path = self.folder / f"{stem}.safetensors"
        content = dump_tensors(tensors)
        write_atomically(path, content)
        named = {"file": path.name, "digest": file_digest(content)}
        self.write(_PROGRESS, {**named, "told": told})
        for old in self.folder.glob("*.safetensors"):
            if old.name != path.name:
                old.unlink()

    def kept(self) -> tuple[dict[str, ndarray], Mapping[str, Any]] | None:
        """Read what was kept last; None: nothing yet.

        Raises:
            CorruptFileError: the file is not the one that was kept.
        """
        progress = self.document(_PROGRESS)
        if progress is None:
            return None
        path = self.folder / progress["file"]
        content = read_file(path)
        if file_digest(content) != progress["digest"]:
            raise CorruptFileError(f"{path} was changed")
        return load_tensors(content), progress["told"]

    def clear(self) -> None:
        """Forget it: the model was released, or is to be trained anew.

        The word on how far it is goes first: a kill in between leaves a training that
        begins anew, not one whose file is missing.
        """
        paths = [path for path in self.folder.iterdir() if path.name != _LOCK]
        for path in sorted(paths, key=lambda path: path.name != _PROGRESS):
            path.unlink()


@contextmanager
def place_of(folder: Path, name: str, *, restart: bool = False) -> Iterator[Place]:
    """Hold the place of one training; the kernel lets go of it if we are killed.

    Raises:
        TrainingRunsError: another process has it.
    """
    place = Place(folder / "training" / name)
    try:
        place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (place.folder / _LOCK).open("w")
    except OSError as error:
        raise StorageError(f"cannot write {place.folder}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingRunsError(f"{place.folder} is in use") from None
        if restart:
            place.clear()
        yield place


def require_same(what: str, begun: Any, asked: Any) -> None:
    """Raise `TrainingChangedError`, which names what differs."""
    if begun == asked:
        return
    differ = [
        str(name)
        for name in (begun.keys() | asked.keys())
        if begun.get(name) != asked.get(name)
    ]
    raise TrainingChangedError(
        f"an unfinished training of this name differs in its {what}: "
        f"{', '.join(sorted(differ))}"
    )
