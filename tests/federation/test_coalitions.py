"""`keymixer leakage SCENARIO`: a federation is run, and each coalition attacks it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.leakage.coalitions import CIPHERTEXT_ONLY, HELD, NOTHING, WITH_KEY, Member

pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(600)]

SCENARIO = "deploy/scenarios/digits.yaml"
P, K, S, O = map(str, Member)  # noqa: E741 -- as the table's columns


def attack(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the command on what is in the folder; its report."""
    where = ("--runs", str(folder / "runs"), "--out", str(folder / "out"))
    command = ("leakage", *arguments, *where, "--images", "12", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *command],
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coalitions")


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    """There is no run of the scenario yet: it is simulated."""
    return attack(folder, SCENARIO)


@pytest.fixture
def rows(report: dict[str, Any]) -> Mapping[tuple[str, ...], Any]:
    found = report["coalitions"]
    return {tuple(row["members"]): row for row in found if not row["recorded"]}


def test_the_victim_is_the_first_owner_under_its_newest_key(
    report: dict[str, Any],
) -> None:
    """It was rotated, and the third owner's key revoked, when the run was over."""
    facts = report["federation"]

    assert facts["victim"] == "post-office.digits v2"
    assert facts["member"] == "savings-bank.digits v1"
    assert facts["others"] == []
    assert facts["public_embedding"] is False
    assert facts["ciphertexts"] == {
        "post-office.digits": 120,
        "savings-bank.digits": 90,
    }


def test_whoever_joins_the_server_opens_all(
    rows: Mapping[tuple[str, ...], Any],
) -> None:
    for members, row in rows.items():
        if S not in members:
            assert row["pictures"]["by"] == NOTHING
            continue
        exact = len(members) > 1
        assert row["key"]["recovered"] is exact, members
        assert row["embedding"]["recovered"] is exact, members
        assert (row["pictures"]["by"] == WITH_KEY) is exact
        assert row["pictures"]["ciphertexts"] == 120
        assert not exact or row["pictures"]["ssim"] > 0.999
        assert (row["other_keys"] is None) is (O in members)


def test_the_key_holder_has_keys_and_no_picture_until_one_ciphertext_leaks(
    rows: Mapping[tuple[str, ...], Any],
) -> None:
    row = rows[K,]

    assert row["key"]["by"] == row["embedding"]["by"] == HELD
    assert row["key"]["error"] == 0
    assert not row["pictures"]["recovered"]
    assert row["with_leaked_ciphertext"]["pictures"]["ssim"] > 0.999


def test_the_others_alone_have_no_key(rows: Mapping[tuple[str, ...], Any]) -> None:
    for members in ((), (P,), (O,), (P, O)):
        row = rows[members]
        assert row["key"]["error"] is None, members
        assert row["embedding"]["recovered"] is (P in members)
        leaked = row["with_leaked_ciphertext"]
        assert leaked["pictures"]["by"] == CIPHERTEXT_ONLY
        assert not leaked["key"]["recovered"]


def test_a_run_that_is_there_is_taken_and_gives_the_same(
    folder: Path, report: dict[str, Any]
) -> None:
    """By the scenario, and by its folder."""
    again = attack(folder, str(folder / "runs" / "latest"))

    assert again["coalitions"] == report["coalitions"]
    assert len([p for p in (folder / "runs").iterdir() if not p.is_symlink()]) == 1
    page = (folder / "out" / "leakage.html").read_text()
    assert "Who joins forces" in page
    assert page.count("recovered, picture") > 40
