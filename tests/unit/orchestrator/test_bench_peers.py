"""Peers: how their processes are followed, and what is said when one is not there."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import NotFound
from orchestrator.bench import peers
from orchestrator.bench.environments import (
    PeerNotInstalled,
    environment,
    require_programs,
)
from orchestrator.bench.peers import PeerNotStarted, peer
from orchestrator.bench.ports import (
    PortTaken,
    free_ports,
    open_to_others,
    require_free,
)
from orchestrator.bench.questions import Question
from orchestrator.bench.recipes import Recipe, read_recipes
from orchestrator.bench.tree import Tree

# A child with a grandchild, busy in a session of its own.
_FAMILY = """
import subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", "while True: pass"], start_new_session=True
)
print(child.pid, flush=True)
child.wait()
"""


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_tree_counts_and_ends_what_was_started_in_another_session() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _FAMILY], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        tree = Tree(child.pid)
        try:
            assert {child.pid, grandchild} <= set(tree.pids())
            before = tree.cpu_seconds()
            until(lambda: tree.cpu_seconds() > before + 0.1)
            # Its parent gone, the grandchild is still known.
            child.kill()
            child.wait()
            assert (grandchild,) == tree.pids()
        finally:
            tree.kill()

    assert () == tree.pids()


def test_ports_that_are_taken_or_open_to_others_are_found() -> None:
    program = (
        "import socket; a = socket.create_server(('127.0.0.1', {}));"
        "b = socket.create_server(('0.0.0.0', {})); print(1, flush=True); input()"
    )
    own, exposed = free_ports(2)
    require_free(own)
    with subprocess.Popen(
        [sys.executable, "-c", program.format(own, exposed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline()

        assert [exposed] == open_to_others([child.pid])
        with pytest.raises(PortTaken, match=str(own)):
            require_free(own)
        child.kill()


def test_an_installation_that_fails_shows_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "requirements.txt").write_text("nothing\n")
    program = "print('no such thing'); raise SystemExit(3)"
    seen: list[str] = []

    with pytest.raises(PeerNotInstalled, match=r"ended with 3\n +no such thing"):
        environment(
            "any",
            tmp_path / "requirements.txt",
            seen.append,
            lambda _: [[sys.executable, "-c", program]],
        )
    assert ["no such thing"] == seen


def test_an_environment_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    required = tmp_path / "requirements.txt"
    required.write_text("nothing\n")
    seen: list[str] = []

    def made() -> Path:
        return environment("any", required, seen.append, _folder_made)

    first = made()
    assert first == made()
    assert ["made"] == seen
    required.write_text("something else\n")
    assert first != made()


def _folder_made(folder: Path) -> list[list[str]]:
    program = "import os, sys; os.mkdir(sys.argv[1]); print('made')"
    return [[sys.executable, "-c", program, str(folder)]]


def test_a_missing_program_is_named() -> None:
    with pytest.raises(PeerNotInstalled, match="no-such-program"):
        require_programs("any", ["no-such-program"])


def test_a_peer_that_ends_shows_the_last_lines_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "environment", lambda *_: Path(sys.prefix))
    recipe = Recipe(
        folder=tmp_path,
        package="numpy",
        command=("python", "-c", "print('I give up'); raise SystemExit(7)"),
        transport="http",
        path="/",
        form="float32",
    )
    question = Question(b"", ())

    with (
        pytest.raises(PeerNotStarted, match=r"ended: 7\n +I give up"),
        peer(recipe, tmp_path, question, tmp_path, print),
    ):
        pass


def test_the_peers_that_come_with_us_can_be_read() -> None:
    found = {recipe.name: recipe for recipe in read_recipes([])}

    assert {"bentoml", "litserve", "mlserver", "rayserve", "torchserve"} == set(found)
    assert ("java",) == found["torchserve"].programs
    assert ["rayserve"] == [name for name, each in found.items() if each.alone]
    for recipe in found.values():
        pinned = recipe.requirements.read_text().splitlines()
        assert all("==" in line for line in pinned)
        assert any(line.startswith(f"{recipe.package}==") for line in pinned)


def test_a_peer_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="triton"):
        read_recipes(["triton"])
