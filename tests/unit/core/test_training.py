"""Training learns real images, repeats itself bit for bit, stops when it diverges."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Generator

from core.architecture import Architecture
from core.convmixer import ConvMixer, initialise
from core.errors import ConfigurationError, DataError, TrainingDivergedError
from core.training import (
    Examples,
    Progress,
    Recipe,
    augment,
    evaluate,
    fit,
    predict_logits,
)

DIGITS = Architecture(
    hidden=32, depth=2, kernel_size=3, patch_size=2, channels=1, height=8, width=8
)
# A mirrored or far shifted digit is another one.
GENTLE = Recipe(epochs=4, batch=64, pad=1, flip=False)


@pytest.fixture(scope="module")
def digits() -> tuple[Examples, Examples]:
    """Real handwritten digits, 8x8, out of scikit-learn's wheel: 1,400 to learn."""
    pixels, labels = load_digits(return_X_y=True)
    images = ((pixels.reshape(-1, 1, 8, 8) / 16 - 0.3) / 0.35).astype(np.float32)
    labels = labels.astype(np.int64)
    # The file is sorted by writer; both parts should know them all.
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
    return Examples(images[:1400], labels[:1400]), Examples(
        images[1400:], labels[1400:]
    )


def _model() -> ConvMixer:
    return initialise(DIGITS, seed=0)


def test_a_small_model_learns_to_read_digits(digits: tuple[Examples, Examples]) -> None:
    train, test = digits
    model = _model()
    before = evaluate(model, test)

    curve = fit(model, train, test, replace(GENTLE, epochs=8, batch=32))

    assert before < 0.3
    assert curve[-1].accuracy is not None
    assert curve[-1].accuracy > 0.9
    assert curve[-1].accuracy == evaluate(model, test)
    assert curve[-1].loss < curve[0].loss
    assert not model.training


def test_the_same_seed_gives_the_same_weights(
    digits: tuple[Examples, Examples],
) -> None:
    train, _ = digits
    recipe = replace(GENTLE, epochs=1)
    first, second, other = (_model() for _ in range(3))
    # What others draw from torch's own generator meanwhile must not matter.
    curves = [fit(first, train, None, recipe)]
    torch.rand(5)
    curves.append(fit(second, train, None, recipe))
    fit(other, train, None, replace(recipe, seed=1))

    assert curves[0][0].loss == curves[1][0].loss
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert not torch.equal(first.head.weight, other.head.weight)


def test_progress_is_told_after_every_step(digits: tuple[Examples, Examples]) -> None:
    train, test = digits
    few = Examples(train.images[:200], train.labels[:200])
    told: list[Progress] = []

    curve = fit(_model(), few, test, replace(GENTLE, epochs=2), told.append)

    assert [(p.epoch, p.step, p.steps) for p in told] == [
        (1 + step // 3, step + 1, 6) for step in range(6)
    ]
    assert [p.accuracy is not None for p in told] == [False, False, True] * 2
    assert curve == (told[2], told[5])
    assert told[-1].seconds_left == 0
    assert all(p.seconds_left > 0 for p in told[:-1])


def test_without_test_images_there_is_no_accuracy(
    digits: tuple[Examples, Examples],
) -> None:
    few = Examples(digits[0].images[:64], digits[0].labels[:64])

    assert fit(_model(), few, None, replace(GENTLE, epochs=1))[0].accuracy is None


def test_a_loss_that_is_no_number_stops_the_training(
    digits: tuple[Examples, Examples],
) -> None:
    train, _ = digits
    model = _model()
    with torch.no_grad():
        model.head.bias[0] = torch.nan

    with pytest.raises(TrainingDivergedError):
        fit(model, train, None, GENTLE)


def test_fewer_images_than_a_batch_are_one_step() -> None:
    few = Examples(np.zeros((3, 1, 8, 8), dtype=np.float32), np.array([0, 1, 2]))

    assert fit(_model(), few, None, replace(GENTLE, epochs=2))[-1].steps == 2


# --- asking ---


def test_answers_do_not_depend_on_the_batch(digits: tuple[Examples, Examples]) -> None:
    """BatchNorm in training mode would fail this."""
    images = digits[1].images[:50]
    model = _model().train()
    together, apart = (predict_logits(model, images, batch) for batch in (500, 7))

    np.testing.assert_allclose(together, apart, atol=1e-5)
    assert together.dtype == np.float32
    assert model.training


def test_no_images_have_no_answers() -> None:
    assert predict_logits(_model(), np.zeros((0, 1, 8, 8), np.float32)).shape == (0, 10)


def test_read_only_images_are_read_without_a_warning() -> None:
    """As they come from the wire, or from a file mapped into memory."""
    images = np.zeros((2, 1, 8, 8), dtype=np.float32)
    images.flags.writeable = False
    examples = Examples(images, np.array([0, 1]))

    assert predict_logits(_model(), images).shape == (2, 10)
    assert len(fit(_model(), examples, examples, replace(GENTLE, epochs=1))) == 1


# --- augmentation ---


def test_every_crop_is_a_window_of_the_reflected_image() -> None:
    """The slow way, by NumPy: among all windows, flipped or not, there is the crop."""
    images = np.random.default_rng(0).standard_normal((40, 2, 5, 6)).astype(np.float32)
    crops = augment(
        torch.from_numpy(images), Recipe(pad=2), Generator().manual_seed(0)
    ).numpy()
    reflected = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")

    places = set()
    for n in range(40):
        windows = {
            (top, left, flip): reflected[n, :, top : top + 5, left : left + 6][
                ..., ::flip
            ]
            for top in range(5)
            for left in range(5)
            for flip in (1, -1)
        }
        found = [at for at, w in windows.items() if np.array_equal(w, crops[n])]
        assert len(found) == 1
        places |= {*found}

    assert (
        {top for top, _, _ in places}
        == {left for _, left, _ in places}
        == set(range(5))
    )
    assert {flip for _, _, flip in places} == {1, -1}


def test_without_padding_and_flip_images_stay_as_they_are() -> None:
    images = torch.rand(4, 3, 5, 6, generator=Generator().manual_seed(0))
    recipe = Recipe(pad=0, flip=False)

    assert torch.equal(augment(images, recipe, Generator()), images)


# --- refusals ---


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 1, 8, 8)), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 8), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 1, 8, 8), np.float32), np.zeros(3, np.int64)),
        (np.zeros((2, 1, 8, 8), np.float32), np.zeros(2, np.uint8)),
        (np.zeros((2, 1, 8, 8), np.float32), np.zeros((2, 1), np.int64)),
    ],
)
def test_examples_that_do_not_belong_together_are_refused(
    images: np.ndarray, labels: np.ndarray
) -> None:
    with pytest.raises(DataError):
        Examples(images, labels)


@pytest.mark.parametrize(
    ("shape", "labels"),
    [
        ((0, 1, 8, 8), []),
        ((1, 1, 8, 8), [0]),
        ((2, 3, 8, 8), [0, 1]),
        ((2, 1, 8, 9), [0, 1]),
        ((2, 1, 8, 8), [0, 10]),
        ((2, 1, 8, 8), [-1, 0]),
    ],
)
def test_examples_that_do_not_fit_the_model_are_refused(
    shape: tuple[int, ...], labels: list[int]
) -> None:
    train = Examples(np.zeros(shape, np.float32), np.array(labels, dtype=np.int64))

    with pytest.raises(DataError):
        fit(_model(), train, None, GENTLE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch": -1},
        {"max_lr": 0.0},
        {"max_lr": float("nan")},
        {"weight_decay": -0.1},
        {"pad": -1},
        {"seed": -1},
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        replace(Recipe(), **wrong)


def test_padding_as_wide_as_the_image_is_refused(
    digits: tuple[Examples, Examples],
) -> None:
    with pytest.raises(ConfigurationError, match="pad"):
        fit(_model(), digits[0], None, replace(GENTLE, pad=8))
