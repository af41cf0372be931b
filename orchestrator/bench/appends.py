"""How much faster appends are that share commits than those with a commit each.

Both ways append the same records to a log of their own, on the same disk, in turns; a
caller has one append under way at a time, as a request has.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from orchestrator.bench import machine
from orchestrator.bench.books import Book, open_book
from orchestrator.bench.checks import BenchFailed
from orchestrator.simulation.narrator import Narrator

_PERCENTILE: Final = 0.99


@dataclass(frozen=True, slots=True)
class Plan:
    """How many callers append how often, in how many rounds of both ways."""

    callers: int = 32
    rounds: int = 5
    # Appends of one caller in one round.
    alone: int = 20
    together: int = 200


@dataclass(frozen=True, slots=True)
class Round:
    """What the callers saw: all appends a second, and the wait that 1 % exceeded."""

    per_s: float
    p99_ms: float


def measure_appends(plan: Plan, folder: Path, told: Narrator) -> dict[str, Any]:
    """Append both ways in turns, recompute both logs, and give medians of the rounds.

    Raises:
        BenchFailed: a log holds more or fewer records than were appended.
        AuditBroken: a log is not what it should be.
    """
    alone: list[Round] = []
    together: list[Round] = []
    with open_book(folder / "alone") as one, open_book(folder / "together") as many:
        with told.bar("rounds") as bar:
            for number in range(plan.rounds):
                alone.append(_round(plan.callers, plan.alone, one.append_alone))
                together.append(
                    _round(plan.callers, plan.together, many.append_together)
                )
                bar(number + 1, plan.rounds)
        _check(one, plan.callers * plan.alone * plan.rounds)
        _check(many, plan.callers * plan.together * plan.rounds)
    return _report(plan, alone, together) | {"machine": machine.described(folder)}


def _round(callers: int, appends: int, append: Callable[[], None]) -> Round:
    """Have every caller append so often, one at a time; all begin together."""
    begin = threading.Barrier(callers + 1)

    def call() -> list[float]:
        begin.wait()
        return [_seconds(append) for _ in range(appends)]

    with ThreadPoolExecutor(callers) as pool:
        waits = [pool.submit(call) for _ in range(callers)]
        begin.wait()
        whole = _seconds(lambda: wait(waits))
    every = sorted(second for each in waits for second in each.result())
    return Round(len(every) / whole, 1000 * every[int(_PERCENTILE * len(every))])


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _check(book: Book, appended: int) -> None:
    held = book.verify().size - book.introduced
    if held != appended:
        raise BenchFailed(f"{appended} records were appended, the log holds {held}")


def _report(
    plan: Plan, alone: Sequence[Round], together: Sequence[Round]
) -> dict[str, Any]:
    gains = [b.per_s / a.per_s for a, b in zip(alone, together, strict=True)]
    return {
        "callers": plan.callers,
        "rounds": plan.rounds,
        "group_commit_gain": round(median(gains), 2),
        "gains": [round(gain, 2) for gain in gains],
        "appends_per_s": round(median(each.per_s for each in together), 1),
        "alone_per_s": round(median(each.per_s for each in alone), 1),
        "p99_ms": round(median(each.p99_ms for each in together), 2),
        "alone_p99_ms": round(median(each.p99_ms for each in alone), 2),
    }
