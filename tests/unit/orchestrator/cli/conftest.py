"""One desk for all commands; it forgets between tests."""

from collections.abc import Iterator

import pytest

from orchestrator.simulation.workspace import Workspace
from tests.unit.orchestrator.cli.desk import Desk, Terminal, open_desk


@pytest.fixture(scope="session")
def opened(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Desk, Workspace]]:
    with open_desk(tmp_path_factory.mktemp("desk")) as opened:
        yield opened


@pytest.fixture
def desk(opened: tuple[Desk, Workspace]) -> Desk:
    desk, _ = opened
    desk.clear()
    return desk


@pytest.fixture
def terminal(
    opened: tuple[Desk, Workspace],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    _, workspace = opened
    return Terminal(workspace.root, monkeypatch, capsys)
