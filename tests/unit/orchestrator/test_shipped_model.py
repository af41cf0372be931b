"""The release beside the default scenario: what it is, and when it is taken."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from core.wire import file_digest
from orchestrator.federation import read_federation
from orchestrator.simulation import training
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import processes
from orchestrator.simulation.training import (
    obtain_release,
    read_manifest,
    release_folder,
)
from orchestrator.simulation.workspace import Workspace, create_workspace
from parties.model_provider.release import read_release
from parties.model_provider.weights import model_of

ROOT = Path(__file__).parents[3]
SCENARIO = ROOT / "deploy/scenarios/cifar10.yaml"
SHIPPED = ROOT / "deploy/models/cifar10"
MOST_BYTES = 3_000_000


def test_it_is_whole_small_and_public() -> None:
    release = read_release(SHIPPED)
    size = sum(len(part) for part in (release.embedding, release.backbone))
    curve = json.loads((SHIPPED / "curve.json").read_text())
    log = [
        json.loads(line) for line in (SHIPPED / "log.jsonl").read_text().splitlines()
    ]

    assert size <= MOST_BYTES
    assert release.manifest.public_embedding
    assert release.manifest.leakage is not None
    assert release.manifest.metrics["test_accuracy"] == curve[-1]["accuracy"]
    # How it was made: the log of the command, to its end.
    assert [e["accuracy"] for e in log if e["event"] == "epoch"] == [
        point["accuracy"] for point in curve
    ]
    assert log[-1]["event"] == "done"
    assert np.isfinite(model_of(release).embedding.weight.numpy()).all()


def test_its_readme_says_what_it_reached() -> None:
    accuracy = read_release(SHIPPED).manifest.metrics["test_accuracy"]

    assert f"{accuracy:.2%}".replace("%", " %") in (SHIPPED / "README.md").read_text()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create_workspace(tmp_path / "runs", SCENARIO)


def obtained(workspace: Workspace, digest: str, *, retrain: bool = False) -> Path:
    model = workspace.federation.models[0]
    quiet = Narrator(Console(quiet=True))
    with processes(workspace.logs, workspace.root / "processes.json") as running:
        data = {"spec": "digits", "digest": digest}
        obtain_release(workspace, running, model, data, quiet, retrain=retrain)
    return release_folder(workspace, model)


def test_a_simulation_on_the_images_it_was_tested_on_takes_it(
    workspace: Workspace,
) -> None:
    """Under the scenario's own name for it, with everything else as it is."""
    shipped = read_manifest(SHIPPED)
    taken = obtained(workspace, shipped.lineage["data"]["test_digest"])
    manifest = read_manifest(taken)

    assert manifest.name == "convmixer"
    assert manifest.public_embedding
    assert manifest.lineage == shipped.lineage
    assert file_digest(taken / "backbone.safetensors") == shipped.backbone_digest
    assert (taken / "embedding.safetensors").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("retrain", [True, False])
def test_other_images_or_the_users_word_have_one_trained(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *, retrain: bool
) -> None:
    trained: list[str] = []

    def train(place: Workspace, *_: object, **_more: object) -> None:
        trained.append("once")
        release = release_folder(place, place.federation.models[0])
        release.mkdir(parents=True)

    monkeypatch.setattr(training, "_train", train)
    monkeypatch.setattr(training, "_complete", lambda _cached: False)
    monkeypatch.setattr(training, "_remember", lambda _release, _cached: None)
    shipped = read_manifest(SHIPPED).lineage["data"]["test_digest"]
    obtained(workspace, shipped if retrain else "0" * 64, retrain=retrain)

    assert trained == ["once"]


def test_it_is_found_from_wherever_the_scenario_is_read() -> None:
    assert read_federation(SCENARIO).models[0].release == SHIPPED
