"""The log is away: no answer, a typed error in time, the reason, and then it heals."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.integration.outage import Place, outlast, outlast_with_reason, place
from tests.integration.small_disk import on_a_small_disk
from tests.postgresql import PostgreSQL


@pytest.fixture(autouse=True)
def patience() -> None:
    """Nothing is lengthened: here somebody is away indeed."""


def file_limit(place: Place) -> Callable[[], None]:
    place.apart.fill_disk()
    return place.apart.free_disk


def locked(place: Place) -> Callable[[], None]:
    """Another process of the machine holds the file, as `sqlite3` in a shell would."""
    other = sqlite3.connect(place.file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other.close


def moved(place: Place) -> Callable[[], None]:
    """The file is taken from under the process, which has it open and could go on."""
    aside = place.file.with_suffix(".aside")
    place.file.rename(aside)

    def back() -> None:
        aside.rename(place.file)

    return back


def replaced(place: Place) -> Callable[[], None]:
    """Somebody puts another file in its place, such as a backup."""
    back = moved(place)
    place.file.touch()
    return back


def killed(place: Place) -> Callable[[], None]:
    place.apart.kill()
    return place.apart.start


def paused(place: Place) -> Callable[[], None]:
    place.apart.pause()
    return place.apart.go_on


@pytest.mark.slow
@pytest.mark.parametrize(
    ("take_away", "why"),
    [
        (file_limit, "Storage: free space"),
        (locked, "DatabaseBusy: try again"),
        (moved, "DatabaseMoved: put the file back"),
        (replaced, "DatabaseMoved: put the file back"),
    ],
)
def test_a_log_that_cannot_be_written_is_no_answer_and_the_reason_is_told(
    tmp_path: Path, take_away: Callable[[Place], Callable[[], None]], why: str
) -> None:
    """The orchestrator still answers reads: only writing shows what is wrong."""
    with place(tmp_path) as found:
        outlast_with_reason(found, take_away, why)


@pytest.mark.slow
def test_a_disk_that_is_really_full_is_no_answer_and_heals_when_room_is_made(
    tmp_path: Path,
) -> None:
    """The limit above fails only writing; a full disk has its own ways to."""
    on_a_small_disk(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("take_away", [killed, paused])
def test_an_orchestrator_that_is_away_is_no_answer_and_is_found_again(
    tmp_path: Path, take_away: Callable[[Place], Callable[[], None]]
) -> None:
    with place(tmp_path) as found:
        outlast(found, take_away)


@pytest.mark.slow
def test_a_database_server_that_is_away_is_no_answer_and_is_found_again(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    """It ends every connection, and takes no new one."""
    url = postgresql.empty()
    name = make_url(url).database

    def gone(_place: Place) -> Callable[[], None]:
        postgresql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgresql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "JOIN pg_database USING (datname) WHERE NOT datallowconn"
        )
        return back

    def back() -> None:
        postgresql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    with place(tmp_path, url) as found:
        outlast(found, gone)
    postgresql.drop(url)
