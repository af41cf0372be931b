"""`keymixer bench federated`: everybody gets the same budget, and nothing twice."""

import json
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, cast

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from rich.console import Console
from typer.testing import CliRunner

from core.datasets import load
from core.datasets.npz import load_npz
from core.errors import ConfigurationError
from orchestrator.bench import federated
from orchestrator.bench.federated import Plan, measure_federated, report_of
from orchestrator.bench.federated_figure import write_figure
from orchestrator.bench.trainings import Shape, Trainer, Training
from orchestrator.cli.bench import app
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Processes
from tests.unit.parties.federated.sites import few_digits

SMALL = Shape(
    hidden=4, depth=1, kernel_size=3, patch_size=2, batch=15, pad=1, flip=False
)
TOLD = Narrator(Console(quiet=True))


class Recorder:
    """A trainer that trains nothing; the third site of a trial is the best."""

    def __init__(self) -> None:
        self.asked: list[Training] = []

    def run(self, training: Training) -> dict[str, Any]:
        self.asked.append(training)
        accuracy = {"federated": 0.6, "centralised": 0.8}.get(training.what, 0.3)
        accuracy += 0.1 * (training.site == 3) + 0.01 * training.seed
        curve = [
            {"cpu_seconds": float(n + 1), "accuracy": accuracy * (n + 1)}
            for n in range(training.passes)
        ]
        return {
            "what": training.what,
            "partition": training.partition,
            "seed": training.seed,
            "site": training.site,
            "accuracy": accuracy,
            "cpu_seconds": 10.0,
            "curve": curve,
            "shape": {},
            "digests": ["a", "b"],
            "code": "torch",
        }


def recorded(plan: Plan) -> tuple[list[Training], list[dict[str, Any]]]:
    recorder = Recorder()
    runs = federated.trained(plan, lambda asked: [recorder.run(each) for each in asked])
    return recorder.asked, runs


def test_everybody_makes_as_many_passes_over_as_many_images() -> None:
    asked, _ = recorded(Plan(epochs=7, seeds=2))

    assert {t.passes for t in asked if t.what != "trial"} == {7}
    assert {t.passes for t in asked if t.what == "trial"} == {1}


def test_sites_that_are_unlike_compete_and_the_best_gets_the_budget() -> None:
    asked, _ = recorded(Plan(seeds=1))

    tried = [t.site for t in asked if (t.what, t.partition) == ("trial", "iid")]
    alone = {t.partition: t.site for t in asked if t.what == "one site"}
    assert tried == []
    assert [t.site for t in asked if t.what == "trial"] == [1, 2, 3, 4, 5]
    assert alone == {"iid": 1, "dirichlet:0.3": 3}


class Failing:
    """The first training fails; the others go on until they are ended."""

    def __init__(self) -> None:
        self.ended = Event()
        self.running = self
        self.begun: list[int] = []

    def stop(self) -> None:
        self.ended.set()

    def run(self, training: Training) -> dict[str, Any]:
        self.begun.append(training.seed)
        if training.seed > 0:
            self.ended.wait()
        raise ConfigurationError(f"of seed {training.seed}")


def test_one_that_fails_ends_the_others_and_none_begins_after_it() -> None:
    trainer = Failing()
    asked = [Training(what="centralised", seed=seed, passes=1) for seed in range(9)]

    with pytest.raises(ConfigurationError, match="of seed 0"):
        federated._at_once(2, cast("Trainer", trainer), asked)
    assert trainer.ended.is_set()
    assert len(trainer.begun) < len(asked)


def test_every_seed_deals_the_images_out_anew(tmp_path: Path) -> None:
    asked, _ = recorded(Plan(seeds=3))

    assert len({t.name for t in asked}) == len(asked)
    assert {t.seed for t in asked} == {0, 1, 2}


def test_the_report_says_all_seeds_and_what_they_differ_by(tmp_path: Path) -> None:
    plan = Plan(seeds=2, epochs=3)
    report = report_of(plan, recorded(plan)[1], 100, tmp_path)

    rows = {(row["what"], row["partition"]): row for row in report["rows"]}
    assert list(rows) == [
        ("centralised", ""),
        ("federated", "iid"),
        ("one site", "iid"),
        ("federated", "dirichlet:0.3"),
        ("one site", "dirichlet:0.3"),
    ]
    assert rows["federated", "iid"]["accuracies"] == [0.6, 0.61]
    assert rows["federated", "iid"]["mean"] == pytest.approx(0.605)
    assert report["worth"]["iid"]["federated_over_one_site"] == [30.0, 30.0]
    assert report["worth"]["dirichlet:0.3"]["federated_over_one_site"] == [20.0, 20.0]
    assert report["worth"]["iid"]["centralised_over_federated"] == [20.0, 20.0]
    assert report["budget_images"] == 300
    json.dumps(report)


def test_the_figure_has_a_plot_for_each_way_to_deal_out(tmp_path: Path) -> None:
    plan = Plan(seeds=2, epochs=3)
    write_figure(report_of(plan, recorded(plan)[1], 100, tmp_path), tmp_path / "f.svg")

    drawn = (tmp_path / "f.svg").read_text()
    assert drawn.startswith("<svg")
    for text in ("sites alike (iid)", "sites unlike (Dirichlet 0.3)"):
        assert f"<!-- {text} -->" in drawn


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    data = few_digits(tmp_path / "digits.npz")
    splits = (load(data, "train"), load(data, "test"))
    running = Processes(tmp_path, tmp_path / "processes.json")
    return Trainer(tmp_path, str(data), splits, SMALL, running, TOLD)


def test_a_site_alone_has_its_own_images_as_often_as_all_have_images(
    trainer: Trainer, tmp_path: Path
) -> None:
    """So a pass is the same work for everybody, and all test images are asked."""
    training = Training(
        what="one site", seed=1, passes=2, sites=3, partition="dirichlet:1", site=2
    )
    path = Path(trainer._alone(training, tmp_path / "work"))
    train, test = load_npz(path, "train"), load_npz(path, "test")
    whole = trainer.splits[0]

    counts = trainer.counts(training)
    assert len(train) == len(whole)
    assert len({image.tobytes() for image in train.images}) <= sum(counts)
    assert set(np.flatnonzero(counts)) == set(train.labels.tolist())
    assert {image.tobytes() for image in train.images} <= {
        image.tobytes() for image in whole.images
    }
    assert_array_equal(test.images, trainer.splits[1].images)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_second_run_trains_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real trainings, by the provider's commands; then one of them is repeated."""
    data = few_digits(tmp_path / "digits.npz")
    plan = Plan(
        data=str(data),
        sites=2,
        epochs=2,
        seeds=1,
        partitions=("dirichlet:1",),
        shape=SMALL,
    )
    folder = tmp_path / "keep"
    report = measure_federated(plan, folder, TOLD)
    runs = {path.stem: path.read_bytes() for path in (folder / "runs").iterdir()}
    assert len(runs) == len(report["runs"]) == 5
    for run in report["runs"]:
        points = [point["cpu_seconds"] for point in run["curve"]]
        assert len(points) == run["passes"]
        assert points == sorted(points)
        assert 0 < points[0]
        assert (run["cpu_seconds"], run["accuracy"]) == (
            points[-1],
            run["curve"][-1]["accuracy"],
        )
    assert list((folder / "work").iterdir()) == []

    (folder / "runs" / "federated-dirichlet-1-seed0.json").unlink()
    logs = {path.name: path.stat().st_size for path in (folder / "logs").iterdir()}
    measure_federated(plan, folder, TOLD)
    grown = {
        path.name
        for path in (folder / "logs").iterdir()
        if path.stat().st_size != logs[path.name]
    }
    assert grown == {"federated-dirichlet-1-seed0.log"}

    with pytest.raises(ConfigurationError, match="shape"):
        measure_federated(replace(plan, shape=replace(SMALL, batch=5)), folder, TOLD)


def test_the_command_hands_on_what_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Plan] = []

    def measured(plan: Plan, folder: Path, told: Narrator) -> dict[str, Any]:
        asked.append(plan)
        return report_of(plan, recorded(plan)[1], 100, tmp_path)

    monkeypatch.setattr(federated, "measure_federated", measured)
    words = ["federated", "--sites", "4", "--epochs", "3", "--seeds", "2"]
    figure = ["--figure", str(tmp_path / "figure.svg")]
    result = CliRunner().invoke(app, [*words, *figure, "--json"])
    shown = CliRunner().invoke(app, [*words, "--partitions", "iid"])

    assert result.exit_code == shown.exit_code == 0, result.output
    assert (asked[0].sites, asked[0].epochs, asked[0].seeds) == (4, 3, 2)
    assert asked[1].partitions == ("iid",)
    assert Plan() == replace(asked[0], sites=5, epochs=8, seeds=3)
    assert json.loads(result.stdout)["budget_images"] == 300
    assert (tmp_path / "figure.svg").exists()
    assert "federated over one site, points" in shown.stdout
