"""The log on a disk of a few megabytes, which a file fills to the last byte.

The disk is a tmpfs in a mount namespace of its own, which needs no rights on Linux
where user namespaces are allowed. `main` is what runs in there.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from errno import ENOSPC
from functools import partial
from pathlib import Path

import pytest

from tests.integration.outage import Place, outlast_with_reason, place

DISK_MB = 8
_MOUNT = f'mount -t tmpfs -o size={DISK_MB}m tmpfs "$0" && exec "$@"'


def on_a_small_disk(folder: Path) -> None:
    """Outlast a full disk in a namespace of its own; skip where there can be none."""
    disk = folder / "disk"
    disk.mkdir()
    _require_namespaces(disk)
    done = _mounted(disk, sys.executable, "-m", __name__, str(folder))

    assert done.returncode == 0, done.stderr


def main() -> None:
    folder = Path(sys.argv[1])
    disk = folder / "disk"
    with place(folder, f"sqlite:///{disk / 'registry.db'}") as found:
        outlast_with_reason(found, partial(_filled, disk), "Storage: free space")


def _filled(disk: Path, _place: Place) -> Callable[[], None]:
    filling = disk / "filling"
    with filling.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            _write_until_full(file.write, bytes(size))
    assert shutil.disk_usage(disk).free == 0
    return filling.unlink


def _write_until_full(write: Callable[[bytes], int | None], content: bytes) -> None:
    try:
        while write(content) == len(content):
            pass
    except OSError as error:
        if error.errno != ENOSPC:
            raise


def _require_namespaces(disk: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no small disk can be mounted here: unshare is not installed")
    tried = _mounted(disk, "true")
    if tried.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {tried.stderr.strip()}")


def _mounted(disk: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command that sees the disk; nobody else does, and it goes with it."""
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", _MOUNT, disk, *command],
        capture_output=True,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    main()
