"""A training that was ended goes on to the very weights it would have had."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.convmixer import ConvMixer, initialise
from core.errors import CorruptFileError, DataError
from core.training import Examples, Progress, Recipe, Snapshot, Unseen, evaluate, fit
from core.wire import load_tensors, save_tensors
from tests.unit.core.test_training import DIGITS, GENTLE

# Everything that has a state of its own, or draws random numbers.
ALL = replace(
    GENTLE, epochs=5, mixup=0.4, cutmix=1.0, label_smoothing=0.1, ema=0.9, flip=True
)


@pytest.fixture(scope="module")
def few() -> tuple[Examples, Examples]:
    numbers = np.random.default_rng(5)
    images = numbers.standard_normal((260, 1, 8, 8), dtype=np.float32)
    # A class that is seen in the picture, so that there is something to learn.
    labels = (images.mean((1, 2, 3)) > 0).astype(np.int64)
    return Examples(images[:200], labels[:200]), Examples(images[200:], labels[200:])


def ended_after(epochs: int, kept: list[Snapshot]) -> Snapshot:
    return next(each for each in kept if each.epoch == epochs)


def trained(
    few: tuple[Examples, Examples],
    recipe: Recipe,
    stood: Snapshot | None = None,
) -> tuple[ConvMixer, tuple[Progress, ...], list[Snapshot]]:
    model = initialise(DIGITS, seed=0 if stood is None else 99)
    kept: list[Snapshot] = []
    train, test = few
    curve = fit(model, train, Unseen(test, test), recipe, keep=kept.append, stood=stood)
    return model, curve, kept


def through_files(snapshot: Snapshot, folder: Path) -> Snapshot:
    save_tensors(folder / "tensors", snapshot.tensors)
    numbers = json.loads(json.dumps(snapshot.numbers))
    return Snapshot(snapshot.epoch, load_tensors(folder / "tensors"), numbers)


def assert_same(one: ConvMixer, other: ConvMixer) -> None:
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("epoch", range(4))
@pytest.mark.parametrize("recipe", [ALL, replace(ALL, ema=0, mixup=0), GENTLE])
def test_from_any_epoch_it_ends_with_the_same_weights(
    few: tuple[Examples, Examples], recipe: Recipe, epoch: int, tmp_path: Path
) -> None:
    """The second process has another model, whose first weights must not matter."""
    whole, curve, kept = trained(few, recipe)
    stood = through_files(ended_after(epoch, kept), tmp_path)
    resumed, rest, _ = trained(few, recipe, stood)

    assert_same(whole, resumed)
    told = [(p.epoch, p.step, p.loss, p.accuracy) for p in curve[epoch:]]
    assert told == [(p.epoch, p.step, p.loss, p.accuracy) for p in rest]


def test_an_early_end_is_the_same_too(
    few: tuple[Examples, Examples], tmp_path: Path
) -> None:
    recipe = replace(GENTLE, epochs=30, patience=2, max_lr=0.05)
    whole, curve, kept = trained(few, recipe)
    stood = through_files(ended_after(len(curve) - 1, kept), tmp_path)
    resumed, rest, _ = trained(few, recipe, stood)

    assert len(curve) < 30
    assert len(rest) == 1
    assert_same(whole, resumed)


def test_a_snapshot_of_another_model_is_refused(
    few: tuple[Examples, Examples],
) -> None:
    _, _, kept = trained(few, replace(GENTLE, epochs=1))
    wider = initialise(replace(DIGITS, hidden=40), seed=0)

    with pytest.raises(CorruptFileError):
        fit(wider, few[0], None, GENTLE, stood=kept[-1])


# --- stopping early ---


def test_it_stops_when_it_gets_no_better_and_has_the_best_weights(
    few: tuple[Examples, Examples],
) -> None:
    """What it keeps is found again in the snapshots, and evaluated by itself."""
    recipe = replace(GENTLE, epochs=30, patience=2, max_lr=0.05)
    model, curve, kept = trained(few, recipe)
    best = max(range(len(curve)), key=lambda n: (curve[n].validation or 0, -n))

    assert len(curve) == best + 1 + recipe.patience
    assert [n for n, point in enumerate(curve) if point.kept][-1] == best
    assert evaluate(model, few[1]) == curve[best].validation
    tensors = ended_after(best + 1, kept).tensors
    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.numpy(), tensors["model." + name]), name
    assert curve[-1].seconds_left == 0


def test_to_stop_early_takes_images_to_decide_by(
    few: tuple[Examples, Examples],
) -> None:
    """Those that tell how good it is would flatter it."""
    with pytest.raises(DataError, match="validation"):
        fit(initialise(DIGITS, 0), few[0], few[1], replace(GENTLE, patience=1))


# --- the average ---


def test_the_average_is_that_of_the_weights_after_each_step(
    few: tuple[Examples, Examples],
) -> None:
    """The slow way: every step's weights, from one-step trainings, averaged by hand."""
    train = Examples(few[0].images[:64], few[0].labels[:64])
    recipe = replace(GENTLE, epochs=4, batch=64, ema=0.8)
    model = initialise(DIGITS, seed=0)
    kept: list[Snapshot] = []
    fit(model, train, None, recipe, keep=kept.append)

    weights = [each.tensors["model.head.weight"] for each in kept[1:]]
    expected = weights[0].astype(np.float64)
    for step, now in enumerate(weights[1:], 1):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * now
    np.testing.assert_allclose(model.head.weight.detach().numpy(), expected, atol=1e-6)
    assert not np.allclose(weights[-1], expected, atol=1e-4)


def test_the_average_is_what_is_evaluated(few: tuple[Examples, Examples]) -> None:
    model, curve, _ = trained(few, replace(ALL, patience=0))

    assert curve[-1].accuracy == evaluate(model, few[1])
