"""A federation that stays: up, every command that reads or asks, down, up again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

pytestmark = pytest.mark.slow


class Shell:
    """Types `keymixer ...` for one run."""

    def __init__(self, runs: Path, cache: Path) -> None:
        self.runs = runs
        self.environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(cache),
            "KEYMIXER_RUN": str(runs / "latest"),
        }

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json and return what it prints."""
        return json.loads(self.text(*arguments, "--json", code=code))

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
        shell.text("up", "deploy/scenarios/digits.yaml", "--runs", str(runs))
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
    states = {row["role"]: row["state"] for row in shell.json("status")}

    assert states == dict.fromkeys(
        ("orchestrator", "key-holder", "inference-server"), "serving"
    )


def test_the_registry_can_be_read(shell: Shell) -> None:
    parties = shell.json("parties")
    models = shell.json("models")
    keys = shell.json("keys")
    issued = shell.json("issued")

    assert len(parties) == 8
    assert [("digits", 1, "champion")] == [
        (m["name"], m["version"], m["aliases"]) for m in models
    ]
    assert [("active", True)] * 3 == [(k["state"], k["primary"]) for k in keys]
    assert ["live"] * 3 == [one["state"] for one in issued]


@pytest.mark.parametrize("command", ["status", "parties", "models", "keys", "issued"])
def test_a_person_gets_a_table(shell: Shell, command: str) -> None:
    shown = shell.text(command)

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


def test_a_key_can_be_rotated_and_revoked(shell: Shell, pictures: list[Path]) -> None:
    """Rotated, the owner goes on by itself; revoked, it is refused."""
    made = shell.json("keys", "rotate", "post-office", "--overlap", "0")
    shell.json("predict", str(pictures[0]), "--owner", "post-office")
    ended = shell.json("keys", "revoke", "savings-bank", "--reason", "trial ended")
    refused = shell.json(
        "predict", str(pictures[0]), "--owner", "savings-bank", code=3
    )["error"]
    states = {(k["key_id"], k["version"]): k["state"] for k in shell.json("keys")}

    assert made == {"key_id": "post-office.digits", "version": 2}
    assert ended == {"owner": "savings-bank", "versions": [1]}
    assert refused["kind"] == "NoKey"
    assert states["savings-bank.digits", 1] in {"destroy_scheduled", "destroyed"}
    assert ("post-office.digits", 2) in states


def test_a_revoked_owner_may_be_given_another_key(
    shell: Shell, pictures: list[Path]
) -> None:
    assert _settled(shell)

    made = shell.json("keys", "create", "savings-bank")
    # The first question fetches the key; the model is issued a moment later.
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        asked = shell.try_json("predict", str(pictures[0]), "--owner", "savings-bank")
        if isinstance(asked, list):
            break

    assert made == {"key_id": "savings-bank.digits", "version": 2}
    assert asked[0]["key"] == "savings-bank.digits v2"


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

    assert keys == shell.json("keys")
    assert shell.json("audit", "verify")["size"] >= size
    assert shell.json("predict", str(pictures[3]), "--owner", "archive")


def _settled(shell: Shell) -> Any:
    """The keys, once nothing that was rotated or revoked is still on its way."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        keys = shell.json("keys")
        if {key["state"] for key in keys} <= {"active", "destroyed"}:
            return keys
        time.sleep(0.2)
    raise AssertionError(keys)
