"""A site is killed while it trains on Flower's deployment runtime, and comes back.

The model is the one that the same sites train in one process, where nobody is killed.
"""

from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy import ndarray
from rich.console import Console

from orchestrator.simulation import training
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import is_running, processes
from orchestrator.simulation.sites import IMAGES
from orchestrator.simulation.workspace import Workspace, create_workspace
from parties.model_provider.federated.in_process import train_in_process
from parties.model_provider.federated.plan import FederatedPlan
from parties.model_provider.federated.site import state_of
from parties.model_provider.release import read_release
from parties.model_provider.weights import model_of

ROOT = Path(__file__).parents[2]
SITES = ["north", "south"]
ROUNDS = 2
SEED = 3


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """The scenario, with fewer sites and rounds, and a seed that is known."""
    scenario = ROOT / "deploy/scenarios/federated.yaml"
    content = yaml.safe_load(scenario.read_text())
    content["models"][0]["federated"] |= {
        "sites": SITES,
        "rounds": ROUNDS,
        "seed": SEED,
        "killed_once": "south",
    }
    path = tmp_path / "federated.yaml"
    path.write_text(yaml.safe_dump(content))
    return create_workspace(tmp_path / "runs", path)


def weights(release: Path) -> dict[str, ndarray]:
    return state_of(model_of(read_release(release)))


def in_one_process(workspace: Workspace, folder: Path) -> Path:
    """Train over the very same images, each site's as its own."""
    model = workspace.federation.models[0]
    data = folder / "data"
    data.mkdir()
    for site in SITES:
        (data / f"{site}.npz").symlink_to(workspace.root / "sites" / site / IMAGES)
    plan = FederatedPlan(
        name=model.name,
        data=str(data),
        partition="by-organisation",
        sites=len(SITES),
        rounds=ROUNDS,
        seed=SEED,
        **model.architecture.model_dump(),
        **model.training.model_dump(),
    )
    return train_in_process(plan, folder).release


@pytest.mark.heavy
@pytest.mark.timeout(1500)
def test_a_killed_site_comes_back_and_the_model_is_the_same(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # As many threads as the process has that it is compared with.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = workspace.federation.models[0]
    data = {"spec": "digits", "digest": "0" * 64}
    narrator = Narrator(Console(quiet=True))
    record = workspace.root / "processes.json"
    with processes(workspace.logs, record) as group:
        training.obtain_release(workspace, group, model, data, narrator, retrain=True)
    release = training.release_folder(workspace, model)
    content = read_release(release)

    told = [happening.text for happening in narrator.story]
    assert {"is killed while it trains", "is back"} <= set(told)
    assert content.manifest.lineage["absent"] == {}
    assert not any(is_running(process) for process in group.seen)
    expected = weights(in_one_process(workspace, tmp_path))
    for name, array in weights(release).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5, err_msg=name)
