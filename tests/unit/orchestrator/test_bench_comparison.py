"""What is said of a server that answers wrongly: why, and no figures."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.bench import comparison
from orchestrator.bench.comparison import BARE, Plan, compare
from orchestrator.bench.connections import Target
from orchestrator.bench.driving import Measured, WrongAnswers
from orchestrator.bench.load import Load
from orchestrator.bench.peers import Server
from orchestrator.bench.questions import Answered
from orchestrator.bench.tree import Tree

FIGURES = Measured(100.0, 50.0, 1.0, 2.0)
ANSWERED = Answered(
    np.zeros((32, 1, 1, 1), np.uint8), np.zeros((32, 1, 1, 1), np.float32), (0,) * 32
)


@contextlib.contextmanager
def right(_: Path) -> Iterator[Server]:
    yield server("right")


@contextlib.contextmanager
def wrong(_: Path) -> Iterator[Server]:
    yield server("wrong")


def server(name: str) -> Server:
    target = Target(transport="http", port=1, path="/", form="float32")
    return Server(name, "1", target, Tree(0))


def driven(peer: Server, load: Load) -> Measured:
    if peer.name == "wrong" and load.ways[0].questions.endswith("-32"):
        raise WrongAnswers("of another class")
    return FIGURES


@pytest.mark.parametrize("images", [(1, 32), (32,)])
def test_a_peer_that_answers_wrongly_is_absent_from_the_rows(
    images: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "forward_bare", lambda *_: FIGURES)
    monkeypatch.setattr(comparison, "drive", driven)

    found = compare(
        {"wrong": wrong, "right": right},
        tmp_path,
        ANSWERED,
        plan=Plan(rounds=2, images=images),
        folder=tmp_path,
        told=lambda _: None,
    )

    assert {BARE, "right"} == {row["peer"] for row in found.rows()}
    assert {"wrong": "WrongAnswers: of another class"} == found.absent
