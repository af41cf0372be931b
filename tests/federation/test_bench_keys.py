"""`keymixer bench keys`, small: real processes, and nothing left of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.simulation.processes import Process, is_running, load

pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(600)]

OWNERS = 12


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def report(kept: Path) -> dict[str, Any]:
    sizes = ("--owners", str(OWNERS), "--hidden", "64", "--patch", "4")
    command = (sys.executable, "-m", "orchestrator.cli", "bench", "keys", *sizes)
    done = subprocess.run(
        [*command, "--keep", str(kept), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_report_says_what_was_measured_on_which_machine(
    report: dict[str, Any],
) -> None:
    assert (OWNERS, 64, 4) == (report["owners"], report["hidden"], report["patch"])
    assert os.cpu_count() == report["machine"]["processors"]
    assert 0 < report["rotations_per_s"]
    parties = {"orchestrator", "key-holder", "inference-server", "data-owner"}
    assert parties == set(report["cpu_seconds"])
    assert 0 < report["database_mb"]["orchestrator"]


def test_the_phases_add_up(report: dict[str, Any]) -> None:
    seconds = report["seconds"]
    rotation = report["rotation"]

    phases = [s for phase, s in seconds.items() if phase != "total"]
    assert seconds["total"] == pytest.approx(sum(phases), abs=0.01)
    added = sum(passage["seconds"] for passage in rotation.values())
    assert rotation["old_destroyed"]["last_s"] == pytest.approx(added, abs=0.01)
    # The log's own times lie within the phase as we saw it from outside.
    assert added <= seconds["rotation"]


def test_every_milestone_comes_after_the_one_before(report: dict[str, Any]) -> None:
    words = "requested drawn delivered prepared activated"
    ends = "old_refused old_deleted old_destroyed"
    assert [*words.split(), *ends.split()] == list(report["rotation"])

    for times in (report["creation"], report["rotation"]):
        assert sorted(t["last_s"] for t in times.values()) == [
            t["last_s"] for t in times.values()
        ]
        assert sorted(t["first_s"] for t in times.values()) == [
            t["first_s"] for t in times.values()
        ]


def test_a_rotation_has_the_records_that_its_milestones_need(
    report: dict[str, Any],
) -> None:
    """Eight milestones, and what the parties report beside them."""
    assert len(report["rotation"]) * OWNERS <= report["records"]
    # A commit writes one record or more, or leases jobs; none is lost or doubled.
    assert OWNERS <= report["commits"]["orchestrator"]


def test_nothing_is_left_running(report: dict[str, Any], kept: Path) -> None:
    (record,) = kept.glob("*/processes.json")
    started = load(record)

    assert {"orchestrator", "key-holder", "inference-server", "data-owner"} <= {
        process.role for process in started
    }
    assert [] == [process.name for process in started if is_running(process)]


def test_sizes_that_do_not_fit_are_refused_before_anything_is_made(
    tmp_path: Path,
) -> None:
    command = (sys.executable, "-m", "orchestrator.cli", "bench", "keys")
    done = subprocess.run(
        [*command, "--patch", "5", "--keep", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "do not split into 5x5 patches" in done.stderr
    assert [] == list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C while the servers start: no process, no folder."""
    command = (sys.executable, "-m", "orchestrator.cli", "bench", "keys")
    with subprocess.Popen(
        [*command, "--owners", "3"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as bench:
        started = _started(bench, tmp_path)
        bench.send_signal(signal.SIGINT)
        code = bench.wait()

    assert code == 130
    assert [] == [process.name for process in started if is_running(process)]
    assert [] == list(tmp_path.iterdir())


def _started(bench: "subprocess.Popen[bytes]", folder: Path) -> list[Process]:
    """What runs once the first processes do."""
    while bench.poll() is None:
        for record in folder.glob("*/*/processes.json"):
            return load(record)
        time.sleep(0.01)
    raise AssertionError("it ended before it had started anything")
