"""`keymixer train`: what it prints, what it refuses, and how it survives a kill."""

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from core.manifest import Manifest
from orchestrator.cli.__main__ import build
from parties.model_provider.__main__ import app as provider
from parties.model_provider.commands import train
from parties.model_provider.federated.plan import STRATEGIES, FederatedPlan
from parties.model_provider.release import read_release
from tests.unit.parties.federated.sites import few_digits

SHAPE = ("--hidden", "6", "--depth", "1", "--kernel-size", "3", "--patch-size", "2")
RECIPE = ("--batch", "15", "--pad", "1", "--no-flip", "--seed", "5")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return few_digits(tmp_path_factory.mktemp("data") / "digits.npz")


def arguments(digits: Path, folder: Path, *more: str) -> list[str]:
    where = ("--sites", "3", "--data", str(digits), "--folder", str(folder))
    return ["train", *where, *SHAPE, *RECIPE, "--rounds", "2", *more]


def typed(*words: str) -> Any:
    return CliRunner().invoke(build(), words)


def test_json_says_rounds_sites_accuracy_model_and_lineage(
    digits: Path, tmp_path: Path
) -> None:
    result = typed(*arguments(digits, tmp_path, "--json"))

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert ["rounds", "sites", "accuracy", "model", "lineage"] == list(told)
    release = Path(told["model"]["release"])
    manifest = Manifest.from_bytes((release / "manifest.json").read_bytes())
    assert told["rounds"] == 2
    assert told["lineage"] == manifest.lineage
    assert told["accuracy"] == manifest.metrics["test_accuracy"]
    assert told["model"]["backbone_digest"] == manifest.backbone_digest
    for site in told["sites"]:
        assert {"site", "train", "test", "train_digest", "accuracy"} <= site.keys()


def test_a_person_sees_each_round_and_each_site(digits: Path, tmp_path: Path) -> None:
    result = typed(*arguments(digits, tmp_path))

    assert "round 2 of 2: loss" in result.stderr
    assert result.stderr.count("site-3: loss") == 2
    assert str(tmp_path / "releases" / "classifier") in result.stdout.replace("\n", "")


def test_how_many_sites_must_be_said_or_counted(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("north", "south"):
        (tmp_path / "data" / f"{name}.npz").touch()
    by = ("--partition", "by-organisation", "--data", str(tmp_path / "data"))

    assert typed("train", "--sites", "3", *by).exit_code == 2
    assert typed("train", "--sites", "3", "--partition", "even").exit_code == 1


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("--rounds", "3"), "with --sites"),
        (("--min-sites", "2"), "with --sites"),
        (("--sites", "3", "--ema", "0.9"), "without --sites"),
        (("--sites", "3", "--patience", "1"), "without --sites"),
    ],
)
def test_an_option_that_would_say_nothing_is_refused(
    words: tuple[str, ...], meant: str, digits: Path
) -> None:
    result = typed("train", "--data", str(digits), *words)

    assert result.exit_code == 2
    assert meant in " ".join(result.stderr.split())


def test_without_sites_one_trains_alone(digits: Path, tmp_path: Path) -> None:
    where = ("--data", str(digits), "--folder", str(tmp_path))
    quality = ("--label-smoothing", "0.1", "--ema", "0.9", "--mixup", "0.2")
    result = typed(
        *("train", *where, *SHAPE, *RECIPE, *quality, "--epochs", "2", "--json")
    )

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert ["accuracy", "model", "lineage"] == list(told)
    manifest = read_release(Path(told["model"]["release"])).manifest
    assert told["lineage"] == manifest.lineage
    assert manifest.lineage["recipe"]["ema"] == 0.9
    assert "round 1" not in result.stderr
    assert "epoch 2: loss" in result.stderr


def test_the_commands_defaults_are_the_plans() -> None:
    """They are written twice, as the command must not import torch to say them."""
    options = inspect.signature(train).parameters
    plan = FederatedPlan()

    for name in options.keys() & FederatedPlan.__dataclass_fields__.keys():
        if name not in {"sites", "seed", "epochs"}:
            assert options[name].default == getattr(plan, name), name
    assert set(STRATEGIES) == set(options["strategy"].annotation.__args__[0].__args__)


def test_every_option_of_training_says_what_it_is() -> None:
    """Of both commands: what they share is declared in one place."""
    command = typer.main.get_command(provider)
    assert isinstance(command, click.Group)
    found = [
        (name, option)
        for name in ("train", "train-sites")
        for option in command.commands[name].params
        if isinstance(option, click.Option) and option.name != "help"
    ]

    assert [] == [(name, option.name) for name, option in found if not option.help]
    assert {"train", "train-sites"} == {name for name, _ in found}


def run(digits: Path, folder: Path) -> subprocess.Popen[str]:
    words = arguments(digits, folder, "--progress", "json")
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def events(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    assert process.stdout is not None
    return [json.loads(line) for line in process.stdout]


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_after_its_last_round(
    digits: Path, tmp_path: Path
) -> None:
    """SIGKILL after the first round; the weights are those of one that lived."""
    lived = typed(*arguments(digits, tmp_path / "lives", "--json"))
    straight = json.loads(lived.stdout)
    with run(digits, tmp_path / "killed") as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if json.loads(line)["event"] == "round":
                killed.send_signal(signal.SIGKILL)
                break
    with run(digits, tmp_path / "killed") as again:
        told = events(again)

    assert ["sites", "resumed"] == [event["event"] for event in told[:2]]
    assert told[-1]["event"] == "done"
    for digest in ("embedding_digest", "backbone_digest"):
        assert told[-1]["model"][digest] == straight["model"][digest]
