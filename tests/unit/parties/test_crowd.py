"""Many owners at once: each gets its own key, few are connected at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import pytest

from core.errors import PeerUnavailable, SignatureError
from parties.data_owner import crowd
from parties.data_owner.crowd import Errand, run_errands
from parties.data_owner.errors import KeyNotReadyError
from protos.registry_pb2 import KeyVersion

FOLDERS = [Path(f"owner-{i:02}") for i in range(20)]


@dataclass
class World:
    """Remembers what the owners did; a version may be drawn later, or never."""

    drawn_after: int = 0
    away: int = 0
    never: str = ""
    broken: str = ""
    obtained: dict[str, int] = field(default_factory=dict)
    registered: list[str] = field(default_factory=list)
    most_connected: int = 0
    _connected: set[str] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def connect(self, folder: Path) -> Iterator["Owner"]:
        with self._lock:
            self._connected.add(folder.name)
            self.most_connected = max(self.most_connected, len(self._connected))
        try:
            yield Owner(self, folder.name)
        finally:
            with self._lock:
                self._connected.remove(folder.name)

    @property
    def left_connected(self) -> set[str]:
        return self._connected


@dataclass
class Owner:
    world: World
    name: str
    looks: int = 0

    def register(self) -> None:
        self.world.registered.append(self.name)

    def key_versions(self) -> list[KeyVersion]:
        self.looks += 1
        if self.name == self.world.broken:
            raise SignatureError("not by the key holder")
        if self.looks <= self.world.away:
            raise PeerUnavailable("the orchestrator is away")
        drawn = self.looks > self.world.drawn_after and self.name != self.world.never
        versions = [1, 2] if drawn else [1]
        return [KeyVersion(key_id=self.name, version=v) for v in versions]

    def obtain(self, version: KeyVersion) -> None:
        self.world.obtained[version.key_id] = version.version


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "_POLL_S", 0.001)


def _unheard(_done: int) -> None:
    pass


def run(
    world: World, errand: Errand, on_done: Callable[[int], None] = _unheard
) -> None:
    run_errands(FOLDERS, errand, world.connect, threads=3, on_done=on_done)


def test_every_owner_gets_the_version_and_no_other() -> None:
    world = World()
    told: list[int] = []

    run(world, Errand(version=2, timeout_s=60), told.append)

    assert {folder.name: 2 for folder in FOLDERS} == world.obtained
    assert list(range(1, 21)) == told
    assert [] == world.registered


def test_owners_register_when_told_to() -> None:
    world = World()

    run(world, Errand(version=1, timeout_s=60, register=True))

    assert sorted(folder.name for folder in FOLDERS) == sorted(world.registered)


def test_no_more_are_connected_than_there_are_threads_and_none_in_the_end() -> None:
    world = World(drawn_after=2)

    run(world, Errand(version=2, timeout_s=60))

    assert 0 < world.most_connected <= 3
    assert set() == world.left_connected


def test_a_version_that_is_not_drawn_yet_is_waited_for() -> None:
    world = World(drawn_after=3)

    run(world, Errand(version=2, timeout_s=60))

    assert 20 == len(world.obtained)


def test_a_party_that_is_away_for_a_while_is_asked_again() -> None:
    world = World(away=3)

    run(world, Errand(version=2, timeout_s=60))

    assert 20 == len(world.obtained)


def test_an_owner_whose_key_is_never_drawn_is_named() -> None:
    world = World(never="owner-07")

    with pytest.raises(KeyNotReadyError, match="owner-07: no version 2 after 0 s"):
        run(world, Errand(version=2, timeout_s=0))

    assert set() == world.left_connected


def test_what_is_no_waiting_matter_ends_the_crowd_and_is_raised() -> None:
    """The others, which would wait for an hour, give up without a word."""
    world = World(broken="owner-07", never="owner-00", drawn_after=2)

    with pytest.raises(SignatureError, match="not by the key holder"):
        run(world, Errand(version=2, timeout_s=3600))

    assert {"owner-00", "owner-07"}.isdisjoint(world.obtained)
    assert set() == world.left_connected
