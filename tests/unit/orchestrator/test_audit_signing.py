"""The log is signed while it grows, whatever happens to one signature."""

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from core.checkpoint import open_checkpoint
from core.errors import StorageError
from orchestrator.audit.signing import signing
from tests.unit.orchestrator.logs import ORIGIN, PUBLIC_KEY, append, opened

PATIENCE_S = 60.0

# Appends 5 records, says so, and then waits to be killed.
WRITER = """
import sys
from pathlib import Path
from orchestrator.audit.signing import signing
from tests.unit.orchestrator.logs import append, opened

with opened(Path(sys.argv[1])) as (database, log), signing(log, 0.01):
    append(database, log, 5)
    print("appended", flush=True)
    sys.stdin.read()
"""


@dataclass
class BrokenSigner:
    """Its first signature fails; `signed` is set by the second."""

    error: Exception
    calls: int = 0
    signed: Event = field(default_factory=Event)

    def checkpoint(self) -> bytes:
        self.calls += 1
        if self.calls == 1:
            raise self.error
        self.signed.set()
        return b""


@pytest.mark.parametrize("error", [StorageError("disk full"), ZeroDivisionError()])
def test_a_signature_that_fails_is_tried_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    signer = BrokenSigner(error)
    with signing(signer, 0.001):
        assert signer.signed.wait(PATIENCE_S)

    assert "the log was not signed" in caplog.text


def test_nothing_is_signed_after_the_end() -> None:
    signer = BrokenSigner(StorageError("disk full"))
    with signing(signer, 0.001):
        assert signer.signed.wait(PATIENCE_S)
    calls = signer.calls
    time.sleep(0.02)

    assert signer.calls == calls


def test_what_was_recorded_is_signed_without_being_asked(tmp_path: Path) -> None:
    with opened(tmp_path) as (database, log), signing(log, 0.001):
        for size in (2, 5):
            append(database, log, size - log.size())
            wait_until_signed(tmp_path, size)


def test_a_log_that_was_killed_cannot_be_cut_unseen(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"appended\n"
        wait_until_signed(tmp_path, 5)
        writer.kill()

    assert signed_size(tmp_path) == 5


def wait_until_signed(folder: Path, size: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while signed_size(folder) != size:
        assert time.monotonic() < end, "it was not signed in time"
        time.sleep(0.005)


def signed_size(folder: Path) -> int:
    """How many records the newest checkpoint beside the database covers."""
    note = folder / "checkpoint.txt"
    if not note.exists():
        return 0
    return open_checkpoint(note.read_bytes(), PUBLIC_KEY, ORIGIN).size
