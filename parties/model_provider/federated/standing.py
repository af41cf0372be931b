"""Where a training stands, on disk: after a kill it goes on from its last round.

FOLDER/training/NAME/
    plan.json                  what was asked for
    split.json                 which images each site has, by their digests
    round-0003.safetensors     the model after the third round, as secret as a key
    progress.json              names that file, and what each round gave
    lock                       held while a process trains here
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from numpy import ndarray

from core.errors import CorruptFileError, StorageError
from core.wire import (
    file_digest,
    load_tensors,
    read_file,
    save_tensors,
    write_atomically,
)
from parties.model_provider.federated.errors import (
    TrainingChangedError,
    TrainingRunsError,
)
from parties.model_provider.federated.plan import FederatedPlan
from parties.model_provider.federated.strategy import Round, SiteRound, Standing

_PLAN: Final = "plan.json"
_SPLIT: Final = "split.json"
_PROGRESS: Final = "progress.json"
_STATE: Final = "state:"


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one training; whoever has it holds its lock."""

    folder: Path

    def seed(self, plan: FederatedPlan, drawn: int) -> int:
        """Return the seed of the training that is here, or begin one with `drawn`.

        Raises:
            TrainingChangedError: what is here was begun with other options.
        """
        asked = plan.to_config()
        if (self.folder / _PLAN).exists():
            begun = self._read(_PLAN)
            _require_same("plan", begun["plan"], asked)
            return int(begun["drawn"])
        self._write(_PLAN, {"plan": asked, "drawn": drawn})
        return drawn

    def split(self) -> Mapping[str, Any] | None:
        """Read the split manifest of the rounds so far; None: there is none yet."""
        return self._read(_SPLIT) if (self.folder / _SPLIT).exists() else None

    def keep_split(self, split: bytes) -> None:
        """Write down which images each site has."""
        write_atomically(self.folder / _SPLIT, split)

    def require_site(self, split: Mapping[str, Any], site: Mapping[str, Any]) -> None:
        """Compare a site with what it was in the rounds so far.

        Raises:
            TrainingChangedError: its images are no longer the same.
        """
        known = {each["site"]: each for each in split["sites"]}
        name = str(site["site"])
        _require_same(f"site {name}", known.get(name, {}), site)

    def save(self, standing: Standing, rounds: tuple[Round, ...]) -> None:
        """Keep a finished round; the one before stays until this one is on disk."""
        name = f"round-{standing.round:04}.safetensors"
        state = {f"{_STATE}{n}": array for n, array in standing.state.items()}
        save_tensors(self.folder / name, {**state, **standing.memory})
        digest = file_digest(self.folder / name)
        told = [asdict(each) for each in rounds]
        self._write(_PROGRESS, {"file": name, "digest": digest, "rounds": told})
        for old in self.folder.glob("round-*.safetensors"):
            if old.name != name:
                old.unlink()

    def load(self) -> tuple[Standing, tuple[Round, ...]] | None:
        """Read the last finished round; None: there is none yet.

        Raises:
            CorruptFileError: the file is not the one that was kept.
        """
        if not (self.folder / _PROGRESS).exists():
            return None
        progress = self._read(_PROGRESS)
        content = read_file(self.folder / progress["file"])
        if file_digest(content) != progress["digest"]:
            raise CorruptFileError(f"{self.folder / progress['file']} was changed")
        rounds = tuple(_round(told) for told in progress["rounds"])
        number = rounds[-1].number if rounds else 0
        return _standing(number, load_tensors(content)), rounds

    def clear(self) -> None:
        """Forget it: the model was released, or is to be trained anew."""
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()

    def _read(self, name: str) -> Mapping[str, Any]:
        try:
            content: Mapping[str, Any] = json.loads(read_file(self.folder / name))
        except ValueError as error:
            raise CorruptFileError(f"{self.folder / name} cannot be read") from error
        return content

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomically(self.folder / name, json.dumps(content, indent=2).encode())


@contextmanager
def place_of(folder: Path, name: str, *, restart: bool = False) -> Iterator[Place]:
    """Hold the place of one training; the kernel lets go of it if we are killed.

    Raises:
        TrainingRunsError: another process has it.
    """
    place = Place(folder / "training" / name)
    try:
        place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (place.folder / "lock").open("w")
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


def _require_same(what: str, begun: Any, asked: Any) -> None:
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


def _round(told: Mapping[str, Any]) -> Round:
    sites = tuple(SiteRound(**each) for each in told["sites"])
    return Round(told["number"], sites, told["seconds"], told.get("cpu_seconds", 0.0))


def _standing(number: int, tensors: Mapping[str, ndarray]) -> Standing:
    state = {
        name.removeprefix(_STATE): array
        for name, array in tensors.items()
        if name.startswith(_STATE)
    }
    memory = {n: array for n, array in tensors.items() if not n.startswith(_STATE)}
    return Standing(number, state, memory)
