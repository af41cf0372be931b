"""A change is cut off at every piece of what it says to the database, or is told."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from core.errors import Unavailable
from tests.contract.conftest import migrate
from tests.partitioned.desk import (
    PATIENCE_S,
    PATIENT,
    WAIT_S,
    Desk,
    check_checkpoints,
    desk,
)
from tests.partitioned.proxy import Direction, Network
from tests.postgresql import PostgreSQL

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

# Whoever is not heard in time on a slow machine asks again.
HASTY = "connect_timeout=3&answer_s=1&idle_s=0.5"
# To begin, to take the lock, to look who asks, to write, to commit: it says more.
FEWEST_POINTS = 6
LOOK_EVERY_S = 0.01


@dataclass
class Story:
    """Two orchestrators; one is cut off again and again, each time a piece later."""

    near: Desk
    far: Desk
    pool: ThreadPoolExecutor
    done: dict[str, int] = field(default_factory=dict)
    notes: list[bytes] = field(default_factory=list)

    def passes(self, way: Direction, pieces: int, end: Callable[[], None]) -> bool:
        """Cut a change off after so many pieces; say if it came that far at all."""
        name = f"far-{pieces}"
        way.cut_after(pieces)
        reporting = self.pool.submit(self.far.report, name)
        wait(lambda: way.is_cut or reporting.done())
        was_cut = way.is_cut
        # While the other one is cut off, and may hold the lock.
        self._note(f"near-{pieces}", self.near.report(f"near-{pieces}"))
        self._note_if_done(name, reporting)
        end()
        self._note(name, self.far.insist(name))
        self.notes += [self.far.log.checkpoint(), self.near.log.checkpoint()]
        return was_cut

    def _note_if_done(self, name: str, reporting: Future[int]) -> None:
        with suppress(Unavailable):
            self._note(name, reporting.result())

    def _note(self, name: str, index: int) -> None:
        assert self.done.setdefault(name, index) == index


@pytest.fixture
def story(postgresql: PostgreSQL, tmp_path: Path) -> Iterator[Story]:
    url = postgresql.emptied(migrate)
    with (
        desk(url, tmp_path / "near", PATIENT, PATIENCE_S) as near,
        desk(url, tmp_path / "far", HASTY, WAIT_S) as far,
        ThreadPoolExecutor(1) as pool,
    ):
        yield Story(near, far, pool)


@pytest.mark.parametrize("direction", ["requests", "answers"])
@pytest.mark.parametrize("end", [Network.heal, Network.forget, Network.break_off])
def test_there_is_one_history_wherever_a_change_is_cut_off(
    story: Story, direction: str, end: Callable[[Network], None]
) -> None:
    """What was sent into the cut comes late, never, or the connection breaks."""
    network = story.far.network
    for pieces in count():
        way: Direction = getattr(network, direction)
        if not story.passes(way, pieces, lambda: end(network)):
            break

    assert pieces > FEWEST_POINTS
    reported = story.near.verified()
    first = story.near.log.size() - len(reported)
    assert sorted(story.done) == sorted(reported)
    assert story.done == {name: n for n, name in enumerate(reported, first)}
    check_checkpoints(story.near, story.notes)


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end
        time.sleep(LOOK_EVERY_S)
