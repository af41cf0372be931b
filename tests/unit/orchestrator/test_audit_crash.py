"""Killed at any instant, the log holds what it acknowledged and nothing by halves."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.audit.records import parse_entry
from orchestrator.audit.verify import verify_log
from orchestrator.registry.models import Organisation
from tests.unit.orchestrator.logs import PUBLIC_KEY, append, opened

# Appends a row and its record in one transaction, then says so, until it is killed.
WRITER = """
import sys
from pathlib import Path
from orchestrator.registry.models import Organisation
from tests.unit.orchestrator.logs import OPERATOR, opened

with opened(Path(sys.argv[1])) as (database, log):
    log.check_against_last_checkpoint()
    for number in range(log.size(), 100_000):
        with database.transaction() as session:
            session.add(Organisation(name=f"o{number}"))
            log.append(session, "organisation.added", OPERATOR, {"name": f"o{number}"})
        print(number, flush=True)
        if number % 3 == 0:
            log.checkpoint()
"""


@pytest.mark.slow
def test_a_writer_killed_while_it_commits_leaves_a_whole_log(tmp_path: Path) -> None:
    """Four writers in turn go on where the one before was killed."""
    acknowledged = -1
    for delay_ms in (3, 11, 17, 31):
        acknowledged = write_until_killed(tmp_path, acknowledged, delay_ms / 1000)

        with opened(tmp_path) as (database, log):
            log.check_against_last_checkpoint()
            report = verify_log(database, PUBLIC_KEY)
            recorded = [
                parse_entry(entry.body).subject["name"]
                for entry in log.entries(0, 100_000)
            ]
            with database.reading() as session:
                enrolled = {row.name for row in session.query(Organisation)}

        assert report.size > acknowledged
        assert recorded == [f"o{number}" for number in range(report.size)]
        assert set(recorded) == enrolled


@pytest.mark.slow
def test_a_log_goes_on_after_a_kill(tmp_path: Path) -> None:
    write_until_killed(tmp_path, -1, 0.02)

    with opened(tmp_path) as (database, log):
        size = log.size()
        append(database, log, 5)
        log.checkpoint()

        assert verify_log(database, PUBLIC_KEY).size == size + 5


def write_until_killed(folder: Path, acknowledged: int, delay_s: float) -> int:
    """Return the last number that the writer acknowledged before SIGKILL."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        first = int(writer.stdout.readline())
        assert first > acknowledged
        time.sleep(delay_s)
        writer.kill()
        lines = writer.stdout.read().split("\n")
    # What follows the last newline was cut short by the kill.
    return max([first, *(int(line) for line in lines[:-1])])
