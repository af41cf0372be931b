"""Keys change while their owners ask without pause, and not one request is lost.

`deploy/scenarios/rotation.yaml` in small, with every party a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCENARIO = Path(__file__).with_name("rotation.yaml")
OWNERS = ("archive", "post-office", "savings-bank", "town-hall")
REVOKED, SUSPENDED = "archive", "savings-bank"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended well."""
    runs, cache = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("cache")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "orchestrator.cli", "simulate", str(SCENARIO)),
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
def rotation(report: dict[str, Any]) -> dict[str, Any]:
    block: dict[str, Any] = report["rotation"]
    return block


def test_every_key_was_rotated_twice_and_no_request_was_lost(
    rotation: dict[str, Any],
) -> None:
    expected = {
        "rotations": 8,
        "rotations_ordered": 8,
        "failed_requests": 0,
        "misrouted": 0,
        "unrecorded": 0,
        "old_version_served_after_retire": 0,
        "failures": {},
    }

    assert expected == {name: rotation[name] for name in expected}
    assert rotation["requests_during"] >= 300


def test_the_owners_wrote_down_what_the_report_counts(
    run: Path, rotation: dict[str, Any]
) -> None:
    """Counted from the lines themselves, without the code that measures."""
    lines = {
        owner: [
            json.loads(line)
            for line in (run / "owners" / owner / "traffic-1.ndjson")
            .read_text()
            .splitlines()
        ]
        for owner in OWNERS
    }
    refused = {
        owner: sum(line["outcome"] == "refused" for line in lines[owner])
        for owner in OWNERS
    }

    assert rotation["requests"] == sum(map(len, lines.values()))
    assert rotation["refused_requests"] == sum(refused.values())
    assert {REVOKED, SUSPENDED} == {owner for owner in OWNERS if refused[owner]}
    for owner in OWNERS:
        versions = {line["key_version"] for line in lines[owner]} - {0}
        assert versions == {1, 2, 3}, owner


def test_the_log_holds_exactly_the_answers_that_the_owners_have(
    report: dict[str, Any], rotation: dict[str, Any]
) -> None:
    """Each owner's pass over its images and under a wrong key is recorded beside."""
    answered = sum(owner["answered"] for owner in rotation["owners"])
    passes = len(OWNERS) * 2

    assert report["audit"]["kinds"]["inference"] == answered + passes
    assert report["failed_requests"] == 0


def test_a_revoked_owner_is_refused_within_a_second(rotation: dict[str, Any]) -> None:
    refusals = {(r["owner"], r["action"]): r for r in rotation["refusals"]}

    assert {(REVOKED, "revoke"), (SUSPENDED, "suspend")} == set(refusals)
    assert rotation["refused_after_revoke_ms"] is not None
    assert rotation["answered_after_revoke_ms"] <= 1000


def test_every_version_that_ended_was_destroyed(rotation: dict[str, Any]) -> None:
    """Two of each owner, and the third one of the owner that was revoked."""
    last = {
        (life["owner"], life["version"]): life["stays"][-1]["state"]
        for life in rotation["lives"]
    }
    ended = {(owner, version) for owner in OWNERS for version in (1, 2)}
    ended.add((REVOKED, 3))

    assert rotation["destroyed"] == len(ended)
    assert {
        (owner, version): "destroyed" if (owner, version) in ended else "active"
        for owner in OWNERS
        for version in (1, 2, 3)
    } == last


def test_the_suspended_key_was_seen_suspended(rotation: dict[str, Any]) -> None:
    states = {
        stay["state"]
        for life in rotation["lives"]
        for stay in life["stays"]
        if life["owner"] == SUSPENDED
    }

    assert "suspended" in states


def test_the_report_draws_the_lives_of_the_keys(run: Path) -> None:
    page = (run / "report.html").read_text()

    assert "Keys that changed while their owners asked" in page
    assert 'aria-label="The life of every key version' in page
