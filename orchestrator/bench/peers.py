"""Other inference servers, run with the same model as they recommend it, in the plain.

Each has a folder below `deploy/peers`, and an environment of its own.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from core.errors import KeymixerError, PeerUnavailable, Unavailable
from orchestrator.bench.asking import ask
from orchestrator.bench.connections import LOOPBACK, Target
from orchestrator.bench.environments import (
    OnLine,
    environment,
    require_programs,
    version,
)
from orchestrator.bench.forms import FORMS
from orchestrator.bench.namespaces import Namespaces, namespaces
from orchestrator.bench.ports import free_ports, open_to_others, require_free
from orchestrator.bench.questions import Question
from orchestrator.bench.recipes import Recipe
from orchestrator.bench.tree import Tree

THREADS: Final = 2
# glibc gives large blocks back to the system at once, and asks for them again: the same
# forward then takes one time or three. Set so, it keeps them; for everybody alike.
ALLOCATOR: Final = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "268435456",
}

# Ray starts half a dozen processes first, on whatever else the machine does.
_READY_S: Final = 120.0
_TERMINATE_S: Final = 10.0
_LOOK_S: Final = 0.25
_TOLD: Final = 12


class PeerNotStarted(Unavailable):
    """A peer ended, or gave no answer in time."""

    hint = "read its last lines, which the message shows"


class PeerExposed(KeymixerError):
    """A peer listens where other machines can reach it; it was ended."""

    hint = "bind every port of it to 127.0.0.1 in deploy/peers"


class Peer(Protocol):
    """A running server that requests can be made of, and its processes."""

    @property
    def name(self) -> str:
        """What it is called in the table."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def target(self) -> Target:
        """Where requests go and of what form they are."""

    @property
    def tree(self) -> Tree:
        """All its processes."""

    @property
    def entry(self) -> tuple[str, ...]:
        """What a command begins with that shall reach it; empty: everybody here can."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    name: str
    version: str
    target: Target
    tree: Tree
    entry: tuple[str, ...] = ()


@contextlib.contextmanager
def peer(
    recipe: Recipe, release: Path, question: Question, folder: Path, on_line: OnLine
) -> Iterator[Server]:
    """Install a peer if need be, run it until the block is left, and leave nothing.

    Args:
        release: a folder with the model.
        question: one that is asked until the answer is right; the peer is ready then.
        folder: where its log is, and whatever it writes.

    Raises:
        PeerNotInstalled: it cannot be installed here.
        PeerNotStarted: it gave no right answer.
        PeerNotAlone: it needs a network of its own, and there can be none.
        PeerExposed: other machines could reach it.
    """
    require_programs(recipe.name, list(recipe.programs))
    alone = namespaces(recipe.name) if recipe.alone else None
    installed = environment(recipe.name, recipe.requirements, on_line)
    names = _names(recipe, release, folder)
    told = version(installed, recipe.package)
    target = Target(
        transport=recipe.transport,
        port=int(names[recipe.ports[0]]),
        path=recipe.path,
        form=recipe.form,
    )
    with _started(recipe, installed, names, folder, alone) as (child, log):
        entry = alone.joining(child.pid) if alone else ()
        server = Server(recipe.name, told, target, Tree(child.pid), entry)
        try:
            _wait(server, question, child, log)
            _require_own(server)
            yield server
        finally:
            _stop(child, server.tree)


def _names(recipe: Recipe, release: Path, folder: Path) -> dict[str, str]:
    ports = map(str, free_ports(len(recipe.ports)))
    return {
        "peer": str(recipe.folder),
        "folder": str(folder),
        "release": str(release.resolve()),
        "host": LOOPBACK,
        "threads": str(THREADS),
        **dict(zip(recipe.ports, ports, strict=True)),
    }


def _require_own(server: Server) -> None:
    if ports := open_to_others(server.tree.pids()):
        raise PeerExposed(
            f"{server.name} can be reached on {', '.join(map(str, ports))}"
        )


@contextlib.contextmanager
def _started(
    recipe: Recipe,
    installed: Path,
    names: Mapping[str, str],
    folder: Path,
    alone: Namespaces | None,
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    for port in recipe.ports:
        require_free(int(names[port]))
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{recipe.name}.log"
    before = alone.starting() if alone else ()
    with (
        tempfile.TemporaryDirectory(prefix="peer-") as sockets,
        log.open("ab") as output,
    ):
        names = {**names, "sockets": sockets}
        program, *arguments = (part.format(**names) for part in recipe.command)
        with subprocess.Popen(
            [*before, installed / "bin" / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=_variables(recipe, installed, names),
            start_new_session=True,
        ) as child:
            yield child, log


def _variables(
    recipe: Recipe, installed: Path, names: Mapping[str, str]
) -> dict[str, str]:
    """Little of our own environment: it would make one run unlike another."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    root = Path(__file__).resolve().parents[2]
    search = (installed / "bin", os.environ.get("PATH", os.defpath))
    return {
        **kept,
        **ALLOCATOR,
        "PATH": os.pathsep.join(map(str, search)),
        "PYTHONPATH": os.pathsep.join(
            map(str, (recipe.folder, recipe.folder.parent, root))
        ),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(THREADS),
        "KEYMIXER_RELEASE": names["release"],
        **{name: value.format(**names) for name, value in recipe.environment},
    }


def _wait(
    server: Server, question: Question, child: subprocess.Popen[bytes], log: Path
) -> None:
    name = server.name
    deadline = time.monotonic() + _READY_S
    told = "nothing yet"
    while time.monotonic() < deadline:
        # Whoever is seen now is known later, when the one that started it has ended.
        server.tree.pids()
        if child.poll() is not None:
            raise PeerNotStarted(f"{name} ended: {child.returncode}\n{_last(log)}")
        try:
            require_right(server.target, question, server.entry)
        except (PeerUnavailable, TimeoutError, ValueError) as error:
            told = str(error)[:300]
            time.sleep(_LOOK_S)
        else:
            return
    raise PeerNotStarted(f"{name}, in {_READY_S:.0f} s: {told}\n{_last(log)}")


def require_right(
    target: Target, question: Question, entry: Sequence[str] = ()
) -> None:
    """Ask once, if need be from where the server is alone.

    Raises:
        PeerUnavailable: there was no answer, or it was another than the plain model's.
        TimeoutError: it took too long.
    """
    answer = ask(target, question.body, entry)
    found = FORMS[target.form].read(answer, len(question.classes)).argmax(1)
    if tuple(found) != question.classes:
        raise PeerUnavailable(f"expected {question.classes}, got {tuple(found)}")


def _stop(child: subprocess.Popen[bytes], tree: Tree) -> None:
    """Ask its group to end, and end whatever then still runs."""
    # Looked at before the root is gone: who is whose child is lost with it.
    tree.pids()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_TERMINATE_S)
    tree.kill()
    child.wait()


def _last(log: Path) -> str:
    lines: Sequence[str] = log.read_text(errors="replace").splitlines()[-_TOLD:]
    return "\n".join(f"    {line[:300]}" for line in lines)
