"""Two orchestrators that are cut off again and again, each in its turn, at random."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.errors import Unavailable
from tests.contract.conftest import migrate
from tests.partitioned.desk import Desk, check_checkpoints, desk
from tests.postgresql import PostgreSQL

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

AT_ONCE = 4
AT_THE_END = "at the end"
CUTS = 8
# Some end before anybody gives up, some after the server has, some after both have.
LONGEST_CUT_S = 5.0
PAUSE_S = 0.3


@dataclass
class Reporter:
    """Reports as fast as it can through one desk, and notes what became of it."""

    desk: Desk
    name: str
    done: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    notes: set[bytes] = field(default_factory=set)

    def work(self, ended: threading.Event) -> None:
        number = 0
        while not ended.is_set():
            event = f"{self.name}-{number}"
            number += 1
            try:
                self.done[event] = self.desk.report(event)
                self.notes.add(self.desk.log.checkpoint())
            except Unavailable:
                if event not in self.done:
                    self.failed.add(event)


@pytest.mark.parametrize("seed", range(3))
def test_there_is_one_history_whatever_was_cut_and_when(
    postgresql: PostgreSQL, tmp_path: Path, seed: int
) -> None:
    url = postgresql.emptied(migrate)
    with desk(url, tmp_path / "a") as one, desk(url, tmp_path / "b") as other:
        desks = (one, other)
        reporters = [
            Reporter(each, f"{place}{number}")
            for place, each in zip("ab", desks, strict=True)
            for number in range(AT_ONCE)
        ]
        report_while(reporters, lambda: cut_at_random(desks, random.Random(seed)))
        for each in desks:
            each.insist(AT_THE_END)

        check_records(other, reporters)
        check_checkpoints(other, {note for each in reporters for note in each.notes})


def report_while(reporters: list[Reporter], disturb: Callable[[], None]) -> None:
    ended = threading.Event()
    with ThreadPoolExecutor(len(reporters)) as pool:
        working = [pool.submit(each.work, ended) for each in reporters]
        try:
            disturb()
        finally:
            ended.set()
    for each in working:
        each.result()


def cut_at_random(desks: tuple[Desk, Desk], chance: random.Random) -> None:
    """First one, then the other, and so on; both are whole in between."""
    pause = threading.Event()
    for number in range(CUTS):
        network = desks[number % 2].network
        pause.wait(chance.uniform(0, PAUSE_S))
        chance.choice((network.cut, network.cut_answers, network.cut_requests))()
        pause.wait(chance.uniform(0, LONGEST_CUT_S))
        chance.choice((network.heal, network.forget, network.break_off))()


def check_records(desk: Desk, reporters: list[Reporter]) -> None:
    """What was confirmed is there once, where it was said to be; the rest at most."""
    reported = desk.verified()
    times = Counter(reported)
    first = desk.log.size() - len(reported)
    done = {name: index for each in reporters for name, index in each.done.items()}
    failed = {name for each in reporters for name in each.failed}

    assert set(times.values()) == {1}
    assert {name: reported[index - first] for name, index in done.items()} == {
        name: name for name in done
    }
    assert set(times) - set(done) <= failed | {AT_THE_END}
    # Otherwise nothing was put to the test.
    assert failed
    assert all(each.done for each in reporters)
