"""Releases are tried while owners ask without pause, and not one request is lost.

`deploy/scenarios/canary.yaml` as it is, with every party a process of its own.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(900)]

SCENARIO = "deploy/scenarios/canary.yaml"
OWNERS = ("archive", "post-office", "savings-bank")
SHARE = 0.25
# Each owner's pass over its images in one request for ten of them, and one more under a
# wrong key.
IMAGES, BATCH, WRONG = 100, 10, 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended well: what it forbids itself did not happen."""
    runs, cache = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("cache")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "orchestrator.cli", "simulate", SCENARIO),
            *("--runs", str(runs)),
        ],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return runs / "latest"


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "report.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def lines(run: Path) -> dict[str, list[dict[str, Any]]]:
    """What the owners wrote down, without the code that measures."""
    return {
        owner: [
            json.loads(line)
            for line in (run / "owners" / owner / "traffic-1.ndjson")
            .read_text()
            .splitlines()
        ]
        for owner in OWNERS
    }


def test_not_a_request_is_lost_nor_answered_by_another_version(
    report: dict[str, Any], lines: dict[str, list[dict[str, Any]]]
) -> None:
    zero = ("failed_requests", "refused_requests", "misrouted", "unrecorded")
    outcomes = {line["outcome"] for each in lines.values() for line in each}

    assert dict.fromkeys(zero, 0) == {name: report["rotation"][name] for name in zero}
    assert {"answered"} == outcomes
    assert 1 == report["rotation"]["rotations"]


def test_every_answer_is_on_record_once(
    report: dict[str, Any], lines: dict[str, list[dict[str, Any]]]
) -> None:
    """The log holds what was asked without pause, and the passes before; no more."""
    passes = len(OWNERS) * (IMAGES // BATCH + WRONG // BATCH)
    records = [
        each["audit_index"]
        for asked in lines.values()
        for line in asked
        for each in line["released"]
    ]

    assert len(set(records)) == len(records) == sum(map(len, lines.values()))
    assert report["audit"]["kinds"]["inference"] == len(records) + passes


def test_one_release_is_rolled_back_and_the_next_one_promoted(
    report: dict[str, Any],
) -> None:
    found = [
        (trial["champion"], trial["candidate"], trial["ended"])
        for trial in report["canary"]["trials"]
    ]

    assert [(1, 2, "rolled back"), (1, 3, "promoted")] == found


def test_each_owner_asks_the_candidate_with_the_share_that_was_set(
    report: dict[str, Any],
) -> None:
    """Of any requests in a row so many, give or take one; a rotated key is another."""
    first, _ = report["canary"]["trials"]
    off = {
        each["owner"]: abs(each["share_seen"] - SHARE) * each["requests"]
        for each in first["owners"]
    }

    assert {*OWNERS} == set(off)
    assert max(off.values()) <= 1
    assert report["canary"]["share_set"] == SHARE


def test_the_promoted_version_alone_answers_at_last(
    lines: dict[str, list[dict[str, Any]]],
) -> None:
    asked = Counter(line["model_version"] for each in lines.values() for line in each)

    assert {1, 2, 3} == asked.keys()
    assert {3} == {each[-1]["model_version"] for each in lines.values()}


def test_the_versions_are_compared(report: dict[str, Any]) -> None:
    """The first was trained for four epochs, the second for one, the third for 12."""
    first, second = report["canary"]["trials"]
    shown = {v["version"]: v for t in (first, second) for v in t["versions"]}

    assert shown[2]["plain_accuracy"] < shown[1]["plain_accuracy"]
    assert shown[1]["plain_accuracy"] < shown[3]["plain_accuracy"]
    assert first["agreement"] < second["agreement"] < 1.0
    for version in shown.values():
        assert 0 < version["max_logit_difference"] < 1e-4
        assert 0 < version["latency_ms"]["p50"] <= version["latency_ms"]["p99"]


def test_the_report_draws_who_answered(run: Path) -> None:
    page = (run / "report.html").read_text()

    assert "Releases that were tried on a share of the requests" in page
    assert 'aria-label="Answers by the version of the model that gave them"' in page
    assert "Version 3 beside version 1: promoted" in page


def test_the_log_tells_the_trials_without_the_report(run: Path) -> None:
    """`audit verify` reads what the run left, and finds nothing amiss."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "orchestrator.cli", "audit", "verify"),
            *("--run", str(run), "--json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert json.loads(done.stdout)["verified"] is True
