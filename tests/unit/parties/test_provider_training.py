"""Training from images to a release, and the provider's commands."""

import hashlib
import inspect
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from core.architecture import Architecture
from core.convmixer import initialise
from core.datasets import Dataset, load
from core.datasets.source import dataset
from core.manifest import Manifest
from core.shield import ShieldPlan
from core.training import Recipe
from parties.model_provider.__main__ import app, train_command
from parties.model_provider.release import read_release
from parties.model_provider.training import (
    FROM_THE_SYSTEM,
    Plan,
    Trained,
    draw_embedding,
    preprocessing_of,
    train,
)
from parties.model_provider.weights import plain_logits, release_of
from tests.shields import fixed_draw

RECIPE = Recipe(epochs=1, batch=32, pad=1, flip=False)
SMALL: dict[str, Any] = {"hidden": 8, "depth": 1, "kernel_size": 3, "patch_size": 2}


def few(split: Dataset, count: int) -> Dataset:
    return dataset(
        split.name, split.images[:count], split.labels[:count], split.classes
    )


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return few(load("digits", "train"), 200), few(load("digits", "test"), 50)


def trained_with(data: tuple[Dataset, Dataset], seed: int | None) -> Trained:
    plan = Plan("digits", **SMALL, recipe=RECIPE, seed=seed, shield=ShieldPlan())
    return train(data, plan, lambda _: None, lambda _: None)


@pytest.mark.parametrize("spec", ["highpass:1", "noise:0.1", "magnitude:1"])
def test_a_shielded_model_reads_what_the_shield_leaves_and_its_release_says_so(
    data: tuple[Dataset, Dataset], spec: str
) -> None:
    """Blocks are 2 x 2: four numbers, of which a high-pass drops one."""
    shield = ShieldPlan.parse(spec)
    plan = Plan("digits", **SMALL, recipe=RECIPE, seed=7, shield=shield)
    release = release_of(train(data, plan, lambda _: None, lambda _: None))
    manifest = Manifest.from_bytes(release.manifest.to_bytes())

    assert manifest.shield is not None
    assert (manifest.shield.spec, manifest.block) == (spec, (2, 1))
    assert manifest.architecture.channels == {"h": 3, "n": 4, "m": 3}[spec[0]]
    assert (manifest.architecture.patch_size, manifest.architecture.height) == (1, 4)
    found = plain_logits(release, data[1].images, fixed_draw())
    again = plain_logits(release, data[1].images, fixed_draw())
    other = plain_logits(release, data[1].images)
    assert found.shape == (50, 10)
    np.testing.assert_array_equal(found, again)
    assert (spec == "noise:0.1") == bool(np.abs(found - other).max() > 1e-4)


def test_without_a_shield_the_manifest_does_not_speak_of_one(
    data: tuple[Dataset, Dataset],
) -> None:
    manifest = release_of(trained_with(data, seed=7)).manifest

    assert manifest.shield is None
    assert b"shield" not in manifest.to_bytes()


def weight(trained: Trained) -> torch.Tensor:
    return trained.model.embedding.weight.detach()


def test_a_seed_gives_the_same_embedding_again(data: tuple[Dataset, Dataset]) -> None:
    first, second = (trained_with(data, seed=7) for _ in range(2))

    assert torch.equal(weight(first), weight(second))
    assert first.lineage["seed"] == 7


def test_without_a_seed_nobody_can_train_the_same_embedding(
    data: tuple[Dataset, Dataset],
) -> None:
    first, second = (trained_with(data, seed=None) for _ in range(2))

    assert not torch.allclose(weight(first), weight(second), atol=1e-2)
    assert first.lineage["seed"] == FROM_THE_SYSTEM
    assert "seed" not in first.lineage["recipe"]


def test_the_lineage_names_the_data(data: tuple[Dataset, Dataset]) -> None:
    named = trained_with(data, seed=1).lineage["data"]

    assert [part.digest for part in data] == [
        named["train_digest"],
        named["test_digest"],
    ]


def test_the_embedding_comes_from_the_given_entropy() -> None:
    """Four bytes a weight, uniform within torch's own bound."""
    model = initialise(Architecture(hidden=64), 0)
    bound = 1 / math.sqrt(3 * 4 * 4)

    draw_embedding(model, lambda count: hashlib.shake_128(b"entropy").digest(count))

    drawn = model.embedding.weight.detach().numpy()
    raw = np.frombuffer(hashlib.shake_128(b"entropy").digest(4 * drawn.size), "<i4")
    assert np.allclose(raw / 2**31 * bound, drawn.reshape(-1), atol=1e-7)
    assert np.abs(drawn).max() <= bound
    assert drawn.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_mean_and_deviation_are_numpys() -> None:
    images = np.random.default_rng(3).integers(0, 256, (2100, 4, 6, 3), np.uint8)
    images[..., 1] //= 2

    found = preprocessing_of(images)

    assert (4, 6, 3) == (found.height, found.width, found.channels)
    assert np.allclose(found.mean, (images / 255).mean((0, 1, 2)), atol=1e-4)
    assert np.allclose(found.std, (images / 255).std((0, 1, 2)), atol=1e-4)


def test_a_constant_channel_is_not_scaled() -> None:
    assert preprocessing_of(np.full((2, 4, 4, 1), 51, np.uint8)).std == (1.0,)
    assert preprocessing_of(np.full((2, 4, 4, 1), 51, np.uint8)).mean == (0.2,)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    images, labels = load("digits", "train").images, load("digits", "train").labels
    data = tmp_path / "digits.npz"
    np.savez(data, images=images[:200], labels=labels[:200])
    return [
        *("train", "--folder", str(tmp_path), "--name", "digits", "--data", str(data)),
        *("--hidden", "8", "--depth", "1", "--kernel-size", "3", "--patch-size", "2"),
        *("--epochs", "2", "--batch", "32", "--pad", "1", "--no-flip"),
    ]


def test_the_command_tells_events_and_writes_a_release(
    arguments: list[str], tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, [*arguments, "--progress", "json"])

    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [1, 2] == [e["epoch"] for e in events if e["event"] == "epoch"]
    steps = [e for e in events if e["event"] == "progress"]
    assert {"epoch", "epochs", "step", "steps", "loss", "seconds_left"} <= steps[
        0
    ].keys()
    assert all(1 <= e["step"] <= e["steps"] for e in steps)
    assert events[-1]["event"] == "done"
    curve = json.loads((tmp_path / "releases/digits/curve.json").read_text())
    assert curve[-1]["accuracy"] == events[-1]["accuracy"]
    manifest = read_release(tmp_path / "releases" / "digits").manifest
    assert manifest.metrics["test_accuracy"] == events[-1]["accuracy"]


def test_the_commands_defaults_are_the_recipes() -> None:
    """They are written twice, as the command must not import torch to say them."""
    options = inspect.signature(train_command).parameters
    plan = Plan("classifier")
    meant = {**asdict(plan), **asdict(Recipe()), "shield": plan.shield}

    assert ShieldPlan.parse(options["shield"].default) == meant.pop("shield")
    for name in options.keys() & meant.keys() - {"seed"}:
        assert options[name].default == meant[name], name


def test_registering_needs_no_torch() -> None:
    code = (
        "import sys, parties.model_provider.__main__; assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_bar_is_for_people(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 0
    assert "test accuracy" in result.stderr


def test_evaluate_writes_the_plain_logits(arguments: list[str], tmp_path: Path) -> None:
    CliRunner().invoke(app, arguments)
    images, labels = load("digits", "test").images, load("digits", "test").labels
    np.savez(tmp_path / "dealt.npz", images=images, labels=labels)

    release = str(tmp_path / "releases" / "digits")
    dealt, out = str(tmp_path / "dealt.npz"), tmp_path / "plain.npz"
    result = CliRunner().invoke(
        app,
        ["evaluate", "--release", release, "--images", dealt, "--out", str(out)],
    )

    assert result.exit_code == 0
    with np.load(out) as plain:
        assert plain["logits"].shape == (len(images), 10)
        assert plain["logits"].dtype == np.float32
        assert np.array_equal(labels, plain["labels"])
