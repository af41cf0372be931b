"""What the machine is and what it did: processors, disk, processor time, commits."""

import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_SYNCS: Final = 50
_PAGE: Final = 4096
# Behind the command's name in /proc/<pid>/stat: user and system time, in clock ticks.
_TIMES: Final = slice(11, 13)
# `iChange` in the header of SQLite's wal-index (sqlite.org/walformat.html, 2.1): counts
# the transactions that were committed since the database was opened, modulo 2^32.
_COMMITS: Final = slice(8, 12)


def described(folder: Path) -> dict[str, Any]:
    """The machine, for whoever compares; `folder` is where the databases are."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "sync_ms": round(sync_ms(folder), 3),
    }


def sync_ms(folder: Path) -> float:
    """How long the disk takes to make one page durable: the median, in milliseconds."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(_SYNCS):
            file.write(bytes(_PAGE))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


def cpu_seconds(pid: int) -> float | None:
    """Processor seconds that a process has used; None where /proc does not tell."""
    with suppress(OSError, ValueError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        # The command in parentheses may hold anything: split behind its last one.
        ticks = sum(map(int, stat.rpartition(")")[2].split()[_TIMES]))
        return ticks / os.sysconf("SC_CLK_TCK")
    return None


def commits(database: Path) -> int | None:
    """How many transactions an open SQLite database has committed; None: unknown."""
    with suppress(OSError):
        header = database.with_name(f"{database.name}-shm").read_bytes()[:_PAGE]
        return int.from_bytes(header[_COMMITS], sys.byteorder)
    return None


def _processor() -> str:
    """The model's name, where Linux says it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
