"""What a log costs as it grows: to append, to prove, to find, to verify, to keep.

One log is filled from size to size. Appending and proving should cost at a million
records what they cost at ten thousand, and verifying should take no more memory.
"""

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from sqlalchemy import text

from orchestrator.audit.query import Question, read_page
from orchestrator.audit.records import parse_entry
from orchestrator.audit.verify import verify_log
from orchestrator.bench import machine
from orchestrator.bench.books import Book, open_book
from orchestrator.bench.checks import BenchFailed
from orchestrator.simulation.narrator import Narrator

# How many share a commit, as under load.
_GROUP: Final = 32
_SEED: Final = 20261124
_SIZE: Final = text(
    "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes to look at, in records and ascending; how many looks at each."""

    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    looks: int = 200


@dataclass(frozen=True, slots=True)
class Look:
    """One size's costs; times are medians, in milliseconds."""

    records: int
    # Of those since the size before.
    appends_per_s: float
    inclusion_ms: float
    consistency_ms: float
    # To read the records of one request.
    request_ms: float
    verified_per_s: float
    # The most memory of the process that verified.
    verify_mb: float
    bytes_a_record: float


class _Verified(NamedTuple):
    """What a process of its own saw: the size, the rate, its memory in MB."""

    size: int
    per_s: float
    peak_mb: float


def measure_growth(plan: Plan, folder: Path, told: Narrator) -> dict[str, Any]:
    """Fill one log from size to size, and look at it at each.

    Raises:
        BenchFailed: the log holds more or fewer records than were appended.
        AuditBroken: the log is not what it should be.
    """
    with open_book(folder / "growth") as book, told.bar("records") as bar:
        looks = [asdict(each) for each in _looks(plan, book, folder / "growth", bar)]
    return {"looks": looks, "machine": machine.described(folder)}


def _looks(
    plan: Plan, book: Book, folder: Path, bar: Callable[..., None]
) -> Iterator[Look]:
    for size in plan.sizes:
        per_s = _fill(book, size, lambda done: bar(done, plan.sizes[-1]))
        book.log.checkpoint()
        verified = _verified_elsewhere(folder / "registry.db", book.log.public_key)
        if verified.size != size:
            raise BenchFailed(f"{size} were appended, the log holds {verified.size}")
        yield Look(
            records=size,
            appends_per_s=round(per_s, 1),
            **_lookups(book, size, plan.looks),
            verified_per_s=round(verified.per_s, 1),
            verify_mb=round(verified.peak_mb, 1),
            bytes_a_record=round(_bytes(book) / size, 1),
        )


def _fill(book: Book, size: int, on_progress: Callable[[int], None]) -> float:
    """Append until the log holds `size` records; return how many a second."""
    start = done = book.log.size()
    began = time.perf_counter()
    while done < size:
        group = min(_GROUP, size - done)
        with book.database.transaction() as session:
            for _ in range(group):
                book.append(session)
        done += group
        on_progress(done)
    return (done - start) / (time.perf_counter() - began)


def _lookups(book: Book, size: int, looks: int) -> dict[str, float]:
    """Prove and find records here and there; the same ones in each run."""
    chance = random.Random(_SEED)  # noqa: S311 - a sample, no secret
    chosen = [chance.randrange(book.introduced, size) for _ in range(looks)]
    requests = [_request_of(book, index) for index in chosen]
    return {
        "inclusion_ms": _median_ms(
            lambda index: book.log.inclusion_proof(index, size), chosen
        ),
        "consistency_ms": _median_ms(
            lambda first: book.log.consistency_proof(first, size), chosen
        ),
        "request_ms": _median_ms(lambda request: _find(book, request), requests),
    }


def _request_of(book: Book, index: int) -> str:
    (stored,) = book.log.entries(index, 1)
    return str(parse_entry(stored.body).subject["request_id"])


def _find(book: Book, request: str) -> None:
    with book.database.reading() as session:
        page = read_page(session, Question(request_id=request), 0, 10)
    if len(page.entries) != 1:
        raise BenchFailed(
            f"{len(page.entries)} records were found of request {request}"
        )


def _median_ms(look: Callable[[Any], object], at: list[Any]) -> float:
    taken = []
    for each in at:
        began = time.perf_counter()
        look(each)
        taken.append(time.perf_counter() - began)
    return round(1000 * median(taken), 3)


def _bytes(book: Book) -> int:
    """How large the database is once its write-ahead log is written back."""
    with book.database.reading() as session:
        return int(session.execute(_SIZE).scalar_one())


def _verified_elsewhere(path: Path, public_key: bytes) -> _Verified:
    """Verify in a process of its own, whose memory is that of verifying."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        return pool.submit(_verified, path, public_key).result()


def _verified(path: Path, public_key: bytes) -> _Verified:
    report = verify_log(path, public_key)
    return _Verified(report.size, report.records_per_second, _peak_mb())


def _peak_mb() -> float:
    """The most memory this process had, in MB; 0 where /proc does not tell.

    Not getrusage's: a child's begins with what its parent had.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0
