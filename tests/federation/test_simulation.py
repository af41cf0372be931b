"""The main job, as a user runs it: `keymixer simulate`, on scikit-learn's digits."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from orchestrator.simulation.processes import is_running, load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 180.0

SCENARIO = "deploy/scenarios/digits.yaml"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home of its own: nothing is cached, so the model is trained."""
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


def _keymixer(
    *arguments: str, environment: dict[str, str], code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    _keymixer("simulate", SCENARIO, "--runs", str(folder), environment=environment)
    return folder


@pytest.fixture(scope="module")
def report(runs: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((runs / "latest" / "report.json").read_text())
    return loaded


def test_the_keyed_answers_are_the_plain_models(report: dict[str, Any]) -> None:
    """Exactly the same classes, and logits within float32's rounding."""
    assert report["images"] == 300
    assert report["top1_agreement"] == 1.0
    assert 0 < report["max_logit_difference"] <= 1e-4
    assert report["keyed_accuracy"] == report["plain_accuracy"] > 0.85


def test_a_wrong_key_gives_nonsense(report: dict[str, Any]) -> None:
    assert report["wrong_key_accuracy"] < 0.5


def test_no_request_in_good_standing_failed(report: dict[str, Any]) -> None:
    """Not even while the key was rotated."""
    assert report["owners"] == 3
    assert report["requests"] >= 30
    assert report["failed_requests"] == 0
    assert report["rotation"]["requests"] > 0
    assert report["rotation"]["rotations"] == 1
    assert report["rotation"]["misrouted"] == 0


def test_everything_forbidden_was_refused(report: dict[str, Any]) -> None:
    """The old version, the revoked key; another's key; no certificate."""
    expected = {"KeyRefused": 2, "NotAllowed": 1, "NoCertificate": 1}

    assert expected == report["refused"]


def test_every_party_was_a_process_of_its_own(report: dict[str, Any]) -> None:
    pids = [process["pid"] for process in report["processes"]]
    roles = {process["role"] for process in report["processes"]}

    assert len(set(pids)) == len(pids)
    assert roles == {
        "orchestrator",
        "key-holder",
        "inference-server",
        "model-provider",
        "data-owner",
    }


def test_no_process_is_left(runs: Path) -> None:
    seen = load(runs / "latest" / "processes.json")

    assert seen
    assert not [process for process in seen if is_running(process)]


def test_the_log_accounts_for_every_answer(report: dict[str, Any]) -> None:
    kinds = report["audit"]["kinds"]
    asked = report["requests"]

    assert report["audit"]["verified"] is True
    assert kinds["inference"] >= asked
    assert sum(kinds.values()) == report["audit"]["size"]


def test_the_log_verifies_after_the_federation_has_stopped(
    runs: Path, report: dict[str, Any], environment: dict[str, str]
) -> None:
    done = _keymixer(
        "audit",
        "verify",
        "--run",
        str(runs / "latest"),
        "--json",
        environment=environment,
    )

    assert json.loads(done.stdout)["verified"] is True
    assert json.loads(done.stdout)["size"] >= report["audit"]["size"]


class _Links(HTMLParser):
    """Collects whatever a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "href", "data", "srcset"} and value:
                self.pictures += value.startswith("data:image/png")
                if not value.startswith(("data:", "#")):
                    self.fetched.append(f"{tag} {name}={value}")


def test_the_report_needs_nothing_but_itself(runs: Path) -> None:
    """It opens from disk, without a network; the pictures are inside."""
    page = (runs / "latest" / "report.html").read_text()
    links = _Links()
    links.feed(page)

    assert links.fetched == []
    assert links.pictures == 24
    assert not re.search(r"@import|url\((?!#)", page)
    assert page.count("<svg") == 4


def test_interrupted_it_stops_every_process(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Ctrl-C in the middle of the run, as a terminal would send it."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "orchestrator.cli",
            "simulate",
            SCENARIO,
            "--runs",
            str(tmp_path),
        ],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    record = _appears(tmp_path, "*/processes.json", child)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=PATIENCE_S)

    assert child.returncode == 130
    assert "The logs are in" in said
    assert not [process for process in load(record) if is_running(process)]


def test_a_server_that_is_killed_ends_the_run_and_is_named(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Whoever asked it fails too, but the message names the server and its log."""
    command = ("simulate", SCENARIO, "--runs", str(tmp_path))
    child = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", *command],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    record = _appears(tmp_path, "*/processes.json", child)
    (server,) = _started(record, "inference-server", child)
    os.kill(server, signal.SIGKILL)
    _, said = child.communicate(timeout=PATIENCE_S)

    assert child.returncode == 4
    assert "inference-server ended with signal 9" in said
    assert "inference-server.log" in said
    assert not [process for process in load(record) if is_running(process)]


def _started(record: Path, name: str, child: subprocess.Popen[str]) -> list[int]:
    """The pid of a process, once the simulation has started it."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and child.poll() is None:
        if found := [p.pid for p in load(record) if p.name == name]:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{name} was not started")


def _appears(folder: Path, pattern: str, child: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and child.poll() is None:
        if found := list(folder.glob(pattern)):
            return found[0]
        time.sleep(0.05)
    raise AssertionError("nothing was started")


def test_a_scenario_that_is_wrong_is_refused_before_anything_starts(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("federation: 3\n")

    done = _keymixer(
        "simulate",
        str(wrong),
        *("--runs", str(tmp_path / "runs"), "--json"),
        environment=environment,
        code=1,
    )

    assert json.loads(done.stdout)["error"]["kind"] == "Configuration"
    assert not (tmp_path / "runs").exists()
