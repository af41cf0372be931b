"""A federation that stays: up, every command that reads or asks, down, up again.

Two organisations are operators, and both must want it when a key is revoked. What ends
can be taken back for an hour, so that no test depends on how fast the machine is.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.unit.orchestrator.cli.desk import two_operators

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 120.0
# How a command ends that nobody answered.
UNAVAILABLE = 4


class Shell:
    """Types `keymixer ...` for one run."""

    def __init__(self, runs: Path, cache: Path) -> None:
        self.runs = runs
        self.environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(cache),
            "KEYMIXER_RUN": str(runs / "latest"),
            "COLUMNS": "160",
        }

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json and return what it prints."""
        return json.loads(self.text(*arguments, "--json", code=code))

    def read(self, *arguments: str) -> Any:
        """Run a command that only reads, until somebody answers it in time."""
        until = time.monotonic() + PATIENCE_S
        while (done := self._run(*arguments, "--json")).returncode == UNAVAILABLE:
            assert time.monotonic() < until, done.stdout
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def try_json(self, *arguments: str) -> Any:
        """Run a command with --json, whether it can be done yet or not."""
        done = self._run(*arguments, "--json")
        return json.loads(done.stdout)

    def text(self, *arguments: str, code: int = 0) -> str:
        """Run a command and return what it prints on stdout."""
        done = self._run(*arguments)
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    runs, cache = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("cache")
    shell = Shell(runs, cache)
    try:
        policies = {"dual_control": ["revoke"], "destroy_window_s": 3600}
        shell.text("up", str(two_operators(runs, **policies)), "--runs", str(runs))
        yield shell
    finally:
        shell.text("down")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Handwritten digits as files a person has: larger than the model, PNG and JPEG."""
    folder = tmp_path_factory.mktemp("pictures")
    digits = load_digits()
    paths = []
    for number in range(10):
        pixels = np.round(digits.images[number] / 16 * 255).astype(np.uint8)
        path = folder / f"{number}.{'jpg' if number % 2 else 'png'}"
        Image.fromarray(pixels).resize((64, 64)).convert("RGB").save(path, quality=95)
        paths.append(path)
    return paths


def test_every_server_serves(shell: Shell) -> None:
    """`status` asks each of them for a second, so a slow machine may need another."""
    roles = ("orchestrator", "key-holder", "inference-server")

    def states() -> dict[str, str]:
        asked = shell.try_json("status")
        return {row["role"]: row["state"] for row in asked}

    assert _until(lambda: states() == dict.fromkeys(roles, "serving"))


def test_the_registry_can_be_read(shell: Shell) -> None:
    parties = shell.json("parties")
    models = shell.json("models")
    keys = shell.read("keys")
    issued = shell.json("issued")

    assert len(parties) == 9
    assert [("digits", 1, "champion")] == [
        (m["name"], m["version"], m["aliases"]) for m in models
    ]
    assert [("active", True)] * 3 == [(k["state"], k["primary"]) for k in keys]
    assert ["live"] * 3 == [one["state"] for one in issued]


@pytest.mark.parametrize(
    "command", ["status", "parties", "models", "keys", "issued", "jobs list --all"]
)
def test_a_person_gets_a_table(shell: Shell, command: str) -> None:
    shown = shell.text(*command.split())

    assert len(shown.splitlines()) > 4


def test_predict_names_the_digits(shell: Shell, pictures: list[Path]) -> None:
    """Files of a person, resized as the manifest says, answered encrypted."""
    paths = [str(path) for path in pictures]
    answers = shell.json("predict", *paths, "--owner", "archive")
    right = sum(int(a["class"]) == number for number, a in enumerate(answers))

    assert len(answers) == 10
    assert right >= 8
    assert all(
        sum(a["probabilities"].values()) == pytest.approx(1, abs=1e-4) for a in answers
    )


def test_encrypt_writes_blocks_and_a_picture_that_differs(
    shell: Shell, pictures: list[Path], tmp_path: Path
) -> None:
    shell.text(
        "encrypt", str(pictures[0]), "--out", str(tmp_path), "--owner", "archive"
    )
    (picture,) = tmp_path.glob("*.png")

    with Image.open(picture) as view:
        assert min(view.size) >= 200  # large enough for the eye
    assert picture.read_bytes() != pictures[0].read_bytes()


def test_predict_is_in_the_log(shell: Shell, pictures: list[Path]) -> None:
    before = len(shell.json("audit", "list", "--kind", "inference", "--limit", "10000"))
    shell.json("predict", str(pictures[0]), "--owner", "archive")
    after = shell.json("audit", "list", "--kind", "inference", "--limit", "10000")

    assert len(after) == before + 1
    assert shell.json("audit", "show", str(after[-1]["index"])) == {
        key: value for key, value in after[-1].items() if key not in {"time", "facts"}
    }


def test_the_running_log_verifies(shell: Shell) -> None:
    assert shell.json("audit", "verify")["verified"] is True


def test_a_key_is_rotated_and_its_owner_switches_by_itself(
    shell: Shell, pictures: list[Path]
) -> None:
    plan = shell.json("keys", "rotate", "post-office", "--dry-run")["rotations"]
    made = shell.json("keys", "rotate", "post-office", "--overlap", "0s", "--no-wait")

    def new_key_answers() -> Any:
        asked = shell.try_json("predict", str(pictures[0]), "--owner", "post-office")
        return asked[0]["key"] == "post-office.digits v2"

    assert ("post-office.digits", 1, 2) == _versions(*plan)
    assert ("post-office.digits", 1, 2) == _versions(*made["rotations"])
    assert _until(new_key_answers)
    # Answered once more, nobody knows when: the former version is refused at once.
    assert _state(shell, "post-office.digits", 1) == "destroy_scheduled"


def _versions(rotation: Any) -> tuple[str, int, int]:
    return rotation["key_id"], rotation["from_version"], rotation["to_version"]


def test_an_absent_owner_is_shown_as_waiting_and_holds_up_nobody(
    shell: Shell, pictures: list[Path]
) -> None:
    """Nobody asks for the archive meanwhile: its key is there, and not fetched."""
    made = shell.json("keys", "rotate", "archive", "--patience", "0s")
    (line,) = (line for line in shell.text("keys").splitlines() if "pre_active" in line)

    assert ["waiting"] == [each["standing"] for each in made["progress"]]
    assert "waits for archive to fetch it" in line
    assert _until(lambda: _answered(shell, "archive", pictures) == "archive.digits v2")


def test_one_operator_alone_revokes_nothing(shell: Shell, pictures: list[Path]) -> None:
    reason = ("--reason", "trial ended")
    asked = shell.json("keys", "revoke", "savings-bank", *reason)
    approval = str(asked["approval_id"])
    alone = shell.json("approvals", "approve", approval, code=3)["error"]

    assert asked["versions"] == []
    assert alone["kind"] == "NotAllowed"
    assert _answered(shell, "savings-bank", pictures) == "savings-bank.digits v1"

    done = shell.json("approvals", "approve", approval, "--as", "auditors")
    refused = shell.json("predict", str(pictures[0]), "--owner", "savings-bank", code=3)

    assert done["state"] == "executed"
    assert refused["error"]["kind"] == "NoKey"
    assert _state(shell, "savings-bank.digits", 1) == "destroy_scheduled"


def test_a_revocation_can_be_taken_back_in_its_window(
    shell: Shell, pictures: list[Path]
) -> None:
    """By two operators, as it was revoked by two; what was deleted is issued again."""
    asked = shell.json("keys", "restore", "savings-bank", "--version", "1")
    assert _state(shell, "savings-bank.digits", 1) == "destroy_scheduled"

    def restored() -> bool:
        number = str(asked["approval_id"])
        shell.try_json("approvals", "approve", number, "--as", "auditors")
        return _state(shell, "savings-bank.digits", 1) == "suspended"

    assert _until(restored)
    shell.json("keys", "resume", "savings-bank")

    assert _until(
        lambda: _answered(shell, "savings-bank", pictures) == "savings-bank.digits v1"
    )


def test_a_window_can_be_ended_and_another_key_given(
    shell: Shell, pictures: list[Path]
) -> None:
    asked = shell.json("keys", "revoke", "savings-bank", "--reason", "left")
    shell.json("approvals", "approve", str(asked["approval_id"]), "--as", "auditors")
    shell.json("keys", "destroy", "savings-bank", "--version", "1")

    assert _until(lambda: _state(shell, "savings-bank.digits", 1) == "destroyed")

    made = shell.json("keys", "create", "savings-bank", "--no-wait")

    assert (made["key_id"], made["version"]) == ("savings-bank.digits", 2)
    # The first question fetches the key; the model is issued a moment later.
    assert _until(
        lambda: _answered(shell, "savings-bank", pictures) == "savings-bank.digits v2"
    )


def test_a_suspended_key_is_refused_until_it_is_resumed(
    shell: Shell, pictures: list[Path]
) -> None:
    shell.json("keys", "suspend", "archive", "--reason", "laptop is missing")
    refused = shell.json("predict", str(pictures[0]), "--owner", "archive", code=3)
    shell.json("keys", "resume", "archive")

    assert refused["error"]["kind"] in {"NoKey", "KeyRefused"}
    assert _until(lambda: _answered(shell, "archive", pictures) == "archive.digits v2")


def test_a_keys_whole_life_is_told_in_order(shell: Shell) -> None:
    told = shell.json("keys", "history", "savings-bank")
    first = [
        record["kind"]
        for record in told
        if str(record["subject"].get("key_version", 1)) == "1"
        and record["kind"].startswith(("key.", "approval."))
    ]
    expected = [
        *("key.created", "key.drawn", "key.fetched", "key.confirmed", "key.activated"),
        *("approval.requested", "approval.approved", "key.revoked"),
        *("approval.executed", "approval.requested", "approval.approved"),
        *("key.restored", "approval.executed", "key.resumed"),
        *("approval.requested", "approval.approved", "key.revoked"),
        *("approval.executed", "key.window_ended", "key.destroyed"),
    ]

    assert expected == first
    assert [r["index"] for r in told] == sorted(r["index"] for r in told)
    assert "trial ended" in shell.text("keys", "history", "savings-bank")
    assert "savings-bank.digits" in shell.text("keys", "show", "savings-bank")


def test_a_key_of_an_unknown_owner_is_not_found(shell: Shell) -> None:
    error = shell.json("keys", "rotate", "nobody", code=1)["error"]

    assert error["kind"] == "NotFound"
    assert "post-office" in error["message"]


def test_a_file_that_is_no_image_is_named(shell: Shell, tmp_path: Path) -> None:
    text = tmp_path / "letter.png"
    text.write_text("dear colleague")

    error = shell.json("predict", str(text), "--owner", "archive", code=1)["error"]

    assert error["kind"] == "NotAnImage"
    assert "letter.png" in error["message"]
    assert error["next"]


def test_an_unknown_record_and_an_unknown_run_are_errors_with_a_next_step(
    shell: Shell, tmp_path: Path
) -> None:
    missing = shell.json("audit", "show", "999999", code=1)["error"]
    nowhere = shell.json("keys", "--run", str(tmp_path), code=1)["error"]

    assert missing["kind"] == "NotFound"
    assert "keymixer up" in nowhere["message"]


def test_down_and_up_again_keeps_keys_and_log(
    shell: Shell, pictures: list[Path]
) -> None:
    """Everything acknowledged is on disk: the same keys answer after a restart."""
    keys = _settled(shell)
    size = shell.json("audit", "verify")["size"]
    latest = str(shell.runs / "latest")

    assert len(shell.json("down")["stopped"]) == 3
    assert {"stopped"} == {row["state"] for row in shell.json("status", code=4)}
    assert shell.json("keys", code=4)["error"]["kind"] == "PeerUnavailable"
    shell.text("up", "--resume", latest)

    assert _lasting(keys) == _lasting(shell.read("keys"))
    assert shell.read("audit", "verify")["size"] >= size
    assert shell.json("predict", str(pictures[3]), "--owner", "archive")


def _lasting(keys: Any) -> Any:
    """What is on disk: what happens next is said by the clock."""
    return [{k: v for k, v in key.items() if k != "next"} for key in keys]


def test_after_a_leak_a_release_from_a_fresh_start_brings_every_owner_back(
    shell: Shell, pictures: list[Path]
) -> None:
    """As docs/keys.md says it: report, train anew, release, make it the champion."""
    asked = shell.json("keys", "compromised", "archive", "--reason", "stolen laptop")
    assert _state(shell, "archive.digits", 2) == "suspended", "one operator brakes"
    shell.json("approvals", "approve", str(asked["approval_id"]), "--as", "auditors")
    (job,) = (str(j["id"]) for j in shell.read("jobs") if j["kind"] == "recover")
    before = {k["key_id"]: k["state"] for k in shell.read("keys") if _in_use(k)}

    assert before == {
        "archive.digits": "compromised",
        "post-office.digits": "suspended",
        "savings-bank.digits": "suspended",
    }
    assert f"waits for a clean release (job {job})" in shell.text("keys")
    assert shell.json("keys", "resume", "post-office", code=3)

    _release_from_a_fresh_start(shell)

    assert _until(lambda: _answered(shell, "archive", pictures))
    assert _until(lambda: _answered(shell, "post-office", pictures))
    assert _until(lambda: _answered(shell, "savings-bank", pictures))
    assert _until(lambda: shell.read("jobs", "show", job)["state"] == "done")
    assert {2} == {m["version"] for m in shell.json("models") if not m["exposed"]}
    assert {"active"} == {k["state"] for k in shell.read("keys") if _in_use(k)}


def _in_use(key: Any) -> bool:
    return key["state"] not in {"destroyed", "destroy_scheduled"}


def _release_from_a_fresh_start(shell: Shell) -> None:
    """The provider's own commands: training draws its start from the system."""
    folder = str(shell.runs / "latest" / "providers" / "modelworks")
    shape = "--hidden 32 --depth 1 --kernel-size 3 --patch-size 2 --epochs 1"
    train = ("train", "--name", "digits", "--data", "digits", *shape.split())
    register = ("register", "--release", f"{folder}/releases/digits")
    python = (sys.executable, "-m", "parties.model_provider")
    for arguments in (train, register):
        subprocess.run(
            [*python, *arguments, "--folder", folder],
            env=shell.environment,
            check=True,
            capture_output=True,
        )


def _until(holds: Callable[[], Any], seconds: float = PATIENCE_S) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.2)
    return False


def _answered(shell: Shell, owner: str, pictures: list[Path]) -> str:
    """The key that an owner's answer came under; empty if it was refused."""
    asked = shell.try_json("predict", str(pictures[0]), "--owner", owner)
    return str(asked[0]["key"]) if isinstance(asked, list) else ""


def _state(shell: Shell, key_id: str, version: int) -> str:
    found = {(k["key_id"], k["version"]): k["state"] for k in shell.read("keys")}
    return str(found[key_id, version])


def _settled(shell: Shell) -> Any:
    """The keys, once nothing that was rotated or revoked is still on its way."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        keys = shell.read("keys")
        waits = {"destroy_scheduled", "destroyed"}
        if {key["state"] for key in keys} <= {"active", *waits}:
            return keys
        time.sleep(0.2)
    raise AssertionError(keys)
