"""Health of the log is what became of a write."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from core.database import Database
from core.database import open_database as open_any
from core.errors import StorageError
from orchestrator.audit.pulse import ROOM_BYTES, Pulse
from orchestrator.registry.database import MIGRATIONS
from orchestrator.registry.models import Pulse as Row
from tests.fakes import FakeClock

LONG_S = 60.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    with open_any(url, MIGRATIONS) as opened:
        yield opened


class Health:
    """What was told, newest last."""

    def __init__(self) -> None:
        self.told: list[tuple[bool, str]] = []
        self._changed = threading.Condition()

    def tell(self, serving: bool, why: str) -> None:
        with self._changed:
            self.told.append((serving, why))
            self._changed.notify_all()

    def wait(self, serving: bool) -> str:
        def is_so() -> bool:
            return self.told[-1:] != [] and self.told[-1][0] is serving

        with self._changed:
            assert self._changed.wait_for(is_so, LONG_S)
            return self.told[-1][1]


def row(database: Database) -> tuple[int, int]:
    with database.reading() as session:
        found = session.scalars(select(Row)).one()
        return found.at_ms, len(found.filling)


def test_it_serves_from_the_start_and_every_beat_is_a_new_write(
    database: Database,
) -> None:
    clock, health = FakeClock(), Health()
    pulse = Pulse(database, clock)
    with pulse.kept(health.tell, every_s=60):
        pulse.beat()
        clock.pass_seconds(1)
        pulse.beat()

    assert row(database) == (clock(), 0)
    assert set(health.told) == {(True, "")}


def test_while_another_holds_the_database_it_does_not_serve_and_heals_alone(
    tmp_path: Path,
) -> None:
    health = Health()
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    with (
        open_any(url, MIGRATIONS, wait_s=0.05) as database,
        open_any(url, MIGRATIONS) as other,
        Pulse(database, FakeClock()).kept(health.tell, every_s=0.02),
    ):
        with other.transaction():
            assert health.wait(serving=False).startswith("DatabaseBusy: ")
        health.wait(serving=True)


def test_after_a_failure_there_must_be_room_for_as_much_as_a_batch(
    database: Database,
) -> None:
    health = Health()
    pulse = Pulse(database, FakeClock())
    with pulse.kept(health.tell, every_s=60):
        pulse.missed(StorageError("full"))
        assert health.told[-1] == (False, f"Storage: {StorageError.hint}")
        pulse.beat()
        assert health.told[-1] == (True, "")
        assert row(database)[1] == ROOM_BYTES
        pulse.beat()

    assert row(database)[1] == 0


def test_it_serves_before_the_first_beat(database: Database) -> None:
    health = Health()
    with Pulse(database, FakeClock()).kept(health.tell, every_s=60):
        assert health.told == [(True, "")]


def test_whatever_breaks_a_beat_is_told_and_the_next_one_comes(
    database: Database,
) -> None:
    """To stop beating would be to say for good what was so once."""
    health, broken = Health(), threading.Event()
    broken.set()

    def clock() -> int:
        return 1 // (not broken.is_set())

    with Pulse(database, clock).kept(health.tell, every_s=0.02):
        assert health.wait(serving=False).startswith("Storage: ")
        broken.clear()
        health.wait(serving=True)


def test_when_the_block_ends_it_writes_no_more(database: Database) -> None:
    """The database may be closed by then."""
    begun, go_on, ended = (threading.Event() for _ in range(3))

    def clock() -> int:
        begun.set()
        assert go_on.wait(LONG_S)
        ended.set()
        return 1

    with Pulse(database, clock).kept(lambda _serving, _why: None, every_s=0.02):
        assert begun.wait(LONG_S)
        threading.Timer(0.05, go_on.set).start()

    assert ended.is_set()
