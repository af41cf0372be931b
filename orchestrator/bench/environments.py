"""An environment of its own for each peer, made once and kept in the user's cache."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from core.errors import Unavailable

OnLine = Callable[[str], None]

_DONE: Final = "installed"
_TOLD: Final = 8


class PeerNotInstalled(Unavailable):
    """A peer's packages could not be installed, or a program it needs is missing."""

    hint = "see what pip said; --peers measures some of the peers only"


def environment(
    name: str,
    requirements: Path,
    on_line: OnLine,
    make: Callable[[Path], list[list[str]]] | None = None,
) -> Path:
    """The folder of a peer's environment; it is made if these requirements have none.

    Args:
        on_line: told each line that the installation prints.
        make: the commands that fill a new folder, for tests; `venv` and `pip` else.

    Raises:
        PeerNotInstalled: a command failed; the message holds its last lines.
    """
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = _cache() / f"{name}-{digest}"
    if not (folder / _DONE).exists():
        # What an interrupted installation left is nothing to build on.
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        for command in (make or _installing(requirements))(folder):
            _run(name, command, on_line)
        (folder / _DONE).touch()
    return folder


def require_programs(name: str, programs: list[str]) -> None:
    """Make sure that what pip does not install is there.

    Raises:
        PeerNotInstalled: it is not.
    """
    for program in programs:
        if shutil.which(program) is None:
            raise PeerNotInstalled(f"{name} needs {program}, which is not installed")


def version(folder: Path, package: str) -> str:
    """The version of an installed package."""
    program = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run(
        [folder / "bin" / "python", "-c", program],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()


def _installing(requirements: Path) -> Callable[[Path], list[list[str]]]:
    def commands(folder: Path) -> list[list[str]]:
        python = str(folder / "bin" / "python")
        return [
            [sys.executable, "-m", "venv", str(folder)],
            [python, "-m", "pip", "install", "-r", str(requirements)],
        ]

    return commands


def _run(name: str, command: list[str], on_line: OnLine) -> None:
    last: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        for line in child.stdout or ():
            last = [*last, line.rstrip()][-_TOLD:]
            on_line(line.rstrip())
    if child.returncode:
        told = "\n".join(f"    {line[:300]}" for line in last)
        raise PeerNotInstalled(f"{name}: ended with {child.returncode}\n{told}")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "keymixer" / "peers"
