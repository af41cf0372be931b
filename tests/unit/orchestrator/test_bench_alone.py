"""A peer that opens ports to all: only those in its own network can reach it."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import PeerUnavailable
from orchestrator.bench import peers
from orchestrator.bench.asking import ask
from orchestrator.bench.namespaces import (
    PeerNotAlone,
    inhabitants,
    is_alone,
    namespaces,
    network,
)
from orchestrator.bench.peers import PeerExposed, peer
from orchestrator.bench.questions import Question
from orchestrator.bench.recipes import Recipe
from orchestrator.bench.tree import Tree

# It has a child in a session of its own, and answers what it was sent.
_OPEN_TO_ALL = """
import http.server, subprocess, sys
child = [sys.executable, "-c", "input()"]
subprocess.Popen(child, stdin=subprocess.PIPE, start_new_session=True)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.HTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""
# Two numbers, 0 and 1: the second is the greater.
_QUESTION = Question(b"\0\0\0\0\0\0\x80?", (1,))


@pytest.fixture
def allowed() -> None:
    try:
        namespaces("any")
    except PeerNotAlone as error:
        pytest.skip(str(error))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a peer runs, in our own environment."""
    monkeypatch.setattr(peers, "environment", lambda *_: Path(sys.prefix))
    return tmp_path


def recipe(folder: Path, *, alone: bool) -> Recipe:
    return Recipe(
        folder=folder,
        package="numpy",
        command=("python", "-c", _OPEN_TO_ALL, "{port}"),
        transport="http",
        path="/",
        form="float32",
        alone=alone,
    )


@pytest.mark.usefixtures("allowed")
def test_a_peer_that_is_alone_is_asked_there_and_wholly_ended(folder: Path) -> None:
    open_to_all = recipe(folder, alone=True)

    with peer(open_to_all, folder, _QUESTION, folder, print) as running:
        root, *others = running.tree.pids()
        home = network(root)
        assert others
        assert is_alone(root)
        assert {root, *others} == set(inhabitants(home))
        assert _QUESTION.body == ask(running.target, _QUESTION.body, running.entry)
        with pytest.raises(PeerUnavailable, match=str(running.target.port)):
            ask(running.target, _QUESTION.body)

    assert [] == list(inhabitants(home))


def test_the_same_peer_among_others_is_exposed(folder: Path) -> None:
    open_to_all = recipe(folder, alone=False)

    with (
        pytest.raises(PeerExposed, match="can be reached on"),
        peer(open_to_all, folder, _QUESTION, folder, print),
    ):
        pass


@pytest.mark.usefixtures("allowed")
def test_who_was_never_seen_is_ended_with_the_network_it_is_in() -> None:
    """A daemon of Ray's may lose its parent before anybody looked."""
    left_behind = "(setsid sleep 60 &); echo; read any"
    with subprocess.Popen(
        [*namespaces("any").starting(), "sh", "-c", left_behind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        tree, home = Tree(child.pid), network(child.pid)
        assert (child.pid,) == tree.pids()
        assert 2 == len(list(inhabitants(home)))
        tree.kill()

    assert [] == list(inhabitants(home))


def test_where_no_network_can_be_made_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerNotAlone, match="any needs unshare"):
        namespaces("any")
    for name in ("unshare", "nsenter"):
        (tmp_path / name).write_text("#!/bin/sh\necho it is forbidden >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)

    with pytest.raises(PeerNotAlone, match="cannot: it is forbidden"):
        namespaces("any")
