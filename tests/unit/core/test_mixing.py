"""Mixed images have mixed labels, by as much."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from core.errors import ConfigurationError
from core.training import Recipe, mix

CLASSES = 8


def one_of_each() -> tuple[Tensor, Tensor]:
    """Image k is all k: what is in a mixture can be read off it."""
    labels = torch.arange(CLASSES)
    return labels.float().reshape(-1, 1, 1, 1).expand(-1, 2, 6, 10).clone(), labels


def mixed(recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    images, labels = one_of_each()
    return mix(images, labels, CLASSES, recipe, Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("recipe", [Recipe(mixup=1.0), Recipe(cutmix=1.0)])
def test_labels_say_what_is_in_the_image(recipe: Recipe, seed: int) -> None:
    """The mean of an image is the mean of its labels' numbers, for both kinds."""
    images, shares = mixed(recipe, seed)

    expected = shares @ torch.arange(CLASSES).float()
    torch.testing.assert_close(images.mean((1, 2, 3)), expected)
    torch.testing.assert_close(shares.sum(1), torch.ones(CLASSES))
    assert (shares > 0).sum(1).max() <= 2


@pytest.mark.parametrize("seed", range(20))
def test_a_pasted_part_is_a_rectangle_of_one_other(seed: int) -> None:
    images, _ = mixed(Recipe(cutmix=1.0), seed)

    for own, image in enumerate(images):
        strange = (image != own).numpy()
        assert (strange == strange[0]).all()
        rows, columns = (strange[0].any(axis) for axis in (1, 0))
        assert np.array_equal(strange[0], np.outer(rows, columns))
        for axis in (rows, columns):
            assert np.abs(np.diff(axis.astype(int), prepend=0, append=0)).sum() in {
                0,
                2,
            }
        assert len(image[torch.from_numpy(strange)].unique()) <= 1


def test_each_kind_takes_half_of_the_steps() -> None:
    recipe = Recipe(mixup=1.0, cutmix=1.0)
    pasted = 0
    for seed in range(400):
        images, _ = mixed(recipe, seed)
        pasted += bool((images == images.round()).all())

    assert 160 < pasted < 240


def test_small_alpha_mixes_little() -> None:
    """Beta(a, a) has the variance 1 / (4 (2a + 1))."""
    for alpha in (0.2, 1.0, 4.0):
        recipe = Recipe(mixup=alpha)
        shares = torch.stack(
            [mixed(recipe, seed)[1].max(1).values for seed in range(500)]
        )
        spread = ((shares - 0.5) ** 2).mean()
        # One in eight is mixed with itself, and counts as whole.
        expected = 7 / 8 / (4 * (2 * alpha + 1)) + 1 / 8 / 4
        assert float(spread) == pytest.approx(expected, rel=0.12)


def test_without_mixing_images_and_labels_stay_and_nothing_is_drawn() -> None:
    images, labels = one_of_each()
    generator = Generator().manual_seed(3)
    before = generator.get_state()

    same = mix(images, labels, CLASSES, Recipe(), generator)

    assert same[0] is images
    assert same[1] is labels
    assert torch.equal(before, generator.get_state())


@pytest.mark.parametrize(
    "wrong",
    [
        {"mixup": -0.1},
        {"cutmix": float("nan")},
        {"label_smoothing": 1.0},
        {"ema": 1.0},
        {"ema": -0.5},
        {"patience": -1},
    ],
)
def test_what_cannot_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        replace(Recipe(), **wrong)
