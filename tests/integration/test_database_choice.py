"""The federation's file says where registry and log are, and there they are."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from core.rpc.channel import wait_ready
from core.rpc.identity import ORCHESTRATOR, load_identity
from orchestrator.operator import operator
from orchestrator.simulation.setup import HEALTH_SERVICES
from orchestrator.simulation.workspace import Workspace, create_workspace
from tests.postgresql import PostgreSQL
from tests.unit.orchestrator.cli.desk import Terminal, two_operators

LONG_S = 60.0
VARIABLE = "KEYMIXER_TEST_DATABASE"


@pytest.fixture
def url(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database, named by the environment."""
    url = postgresql.empty()
    monkeypatch.setenv(VARIABLE, url)
    yield url
    postgresql.drop(url)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    scenario = two_operators(tmp_path)
    content = yaml.safe_load(scenario.read_text())
    scenario.write_text(yaml.safe_dump(content | {"database": f"${{{VARIABLE}}}"}))
    return create_workspace(tmp_path / "runs", scenario)


@contextmanager
def orchestrator(workspace: Workspace) -> Iterator[None]:
    """The process, as `keymixer up` starts it."""
    folder = workspace.server_folder(ORCHESTRATOR)
    command = [sys.executable, "-m", "orchestrator", "--folder", str(folder)]
    with subprocess.Popen(command, env=os.environ) as process:
        try:
            wait_ready(
                workspace.address(ORCHESTRATOR),
                load_identity(workspace.operator_folder()),
                workspace.federation.only(ORCHESTRATOR),
                HEALTH_SERVICES[ORCHESTRATOR],
                LONG_S,
            )
            yield
        finally:
            process.terminate()
            try:
                assert process.wait(LONG_S) == 0
            finally:
                process.kill()


@pytest.mark.slow
def test_an_orchestrator_works_on_the_database_that_the_federation_names(
    url: str,
    postgresql: PostgreSQL,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        orchestrator(workspace),
        operator(workspace.operator_folder()) as connected,
    ):
        parties = {party.spiffe_id for party in connected.parties()}
    with orchestrator(workspace), operator(workspace.operator_folder()) as connected:
        assert {party.spiffe_id for party in connected.parties()} == parties

    name = url.partition("@/")[2].partition("?")[0]
    stored = postgresql.execute("SELECT spiffe_id FROM parties", name)
    assert {spiffe for (spiffe,) in stored} == parties
    folder = workspace.server_folder(ORCHESTRATOR)
    assert not (folder / "registry.db").exists()
    assert url not in (folder / "settings.json").read_text()
    verified = Terminal(workspace.root, monkeypatch, capsys).json("audit", "verify")
    assert verified["verified"] is True
    assert verified["size"] >= len(parties)
