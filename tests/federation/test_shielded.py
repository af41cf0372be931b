"""`keymixer simulate` with a shield: keyed answers are the plain shielded model's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCENARIO = Path("deploy/scenarios/digits.yaml")


def simulate(folder: Path, shield: str, *events: str) -> Path:
    """Run the digits with a shield, and of the timeline only these events."""
    content = yaml.safe_load(SCENARIO.read_text())
    content["models"][0]["shield"] = shield
    content["models"][0]["training"]["epochs"] = 4
    content["simulation"]["images"] = 120
    timeline = content["simulation"]["timeline"]
    content["simulation"]["timeline"] = [e for e in timeline if e["event"] in events]
    scenario = folder / "shielded.yaml"
    scenario.write_text(yaml.safe_dump(content))
    command = ["simulate", str(scenario), "--runs", str(folder / "runs")]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *command],
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return folder / "runs" / "latest"


def read(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report, and the manifest of the model."""
    (manifest,) = run.glob("**/releases/digits/manifest.json")
    report = json.loads((run / "report.json").read_text())
    return report, json.loads(manifest.read_text())


def require_plain_answers(report: dict[str, Any]) -> None:
    assert report["images"] == 120
    assert report["top1_agreement"] == 1.0
    assert 0 < report["max_logit_difference"] <= 1e-4
    assert report["keyed_accuracy"] == report["plain_accuracy"] > 0.5
    assert report["failed_requests"] == 0
    assert report["audit"]["verified"] is True


def test_a_high_pass_holds_while_a_key_is_rotated(tmp_path: Path) -> None:
    run = simulate(tmp_path, "highpass:1", "rotate", "ask_with_key_of")
    report, manifest = read(run)

    require_plain_answers(report)
    assert report["rotation"]["rotations"] == 1
    assert report["rotation"]["misrouted"] == 0
    assert report["refused"]["NotAllowed"] == 1
    assert manifest["shield"]["kind"] == "highpass"
    assert manifest["architecture"]["channels"] == 3
    (samples, *_) = run.glob("**/samples.npz")
    with np.load(samples) as seen:
        assert seen["plain"].shape == seen["decrypted"].shape == seen["encrypted"].shape
        assert (seen["plain"] != seen["decrypted"]).any()


@pytest.mark.heavy
def test_under_noise_the_plain_model_is_asked_about_the_very_draw(
    tmp_path: Path,
) -> None:
    """Of another draw 120 answers would not all be the same to 1e-4."""
    run = simulate(tmp_path, "noise:0.2", "revoke")
    report, manifest = read(run)

    require_plain_answers(report)
    assert report["refused"]["KeyRefused"] == 1
    assert manifest["shield"] == {"kind": "noise", "patch_size": 2, "sigma": 0.2}
    assert manifest["architecture"]["channels"] == 4
