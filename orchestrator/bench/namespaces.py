"""A network namespace for one peer: its own loopback interface, and nothing else."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import Unavailable

_PROC: Final = Path("/proc")
_HEADINGS: Final = 2
_LOOPBACK: Final = "lo"
_TRIED_S: Final = 10.0


class PeerNotAlone(Unavailable):
    """A peer needs a network namespace of its own, and none may be made here."""

    hint = "run as root, or where users may make namespaces (unshare, nsenter)"


@dataclass(frozen=True, slots=True)
class Namespaces:
    """How they are made here: what `unshare` is told, and then `nsenter`."""

    leave: tuple[str, ...]
    enter: tuple[str, ...]

    def starting(self) -> tuple[str, ...]:
        """What a command begins with that shall be alone, without a process more."""
        opened = (sys.executable, "-m", "orchestrator.bench.loopback")
        return ("unshare", "--net", *self.leave, "--", *opened)

    def joining(self, pid: int) -> tuple[str, ...]:
        """What a command begins with that shall be where that process is."""
        return ("nsenter", "--target", str(pid), "--net", *self.enter, "--")


# As root; else as one who is root in a namespace of users, which not all systems allow.
_WAYS: Final = (
    Namespaces((), ()),
    Namespaces(("--user", "--map-root-user"), ("--user", "--preserve-credentials")),
)


def namespaces(name: str) -> Namespaces:
    """How a peer of this name can be alone here.

    Raises:
        PeerNotAlone: it cannot.
    """
    for program in ("unshare", "nsenter"):
        if shutil.which(program) is None:
            raise PeerNotAlone(f"{name} needs {program}, which is not installed")
    told = ""
    for way in _WAYS:
        tried = subprocess.run(
            [*way.starting(), "true"],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=_TRIED_S,
        )
        if not tried.returncode:
            return way
        told = tried.stderr.strip().splitlines()[-1][:300] if tried.stderr else ""
    raise PeerNotAlone(f"{name} must be alone on its network, and cannot: {told}")


def network(pid: int) -> str:
    """The name of the namespace that a process is in; empty if it has gone."""
    try:
        return str((_PROC / str(pid) / "ns" / "net").readlink())
    except OSError:
        return ""


def is_alone(pid: int) -> bool:
    """Whether a process has left our namespace for one with only a loopback interface.

    Our own does not count, whatever interfaces it has today.
    """
    if network(pid) in ("", network(os.getpid())):
        return False
    try:
        lines = (_PROC / str(pid) / "net" / "dev").read_text().splitlines()
    except OSError:
        return False
    names = {line.partition(":")[0].strip() for line in lines[_HEADINGS:]}
    return names == {_LOOPBACK}


def inhabitants(name: str) -> Iterator[int]:
    """All processes that are in the namespace of that name."""
    for folder in _PROC.glob("[0-9]*"):
        if network(int(folder.name)) == name:
            yield int(folder.name)
