"""A shield takes away what it says and keeps the rest; a broken one is refused."""

import base64
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Generator

from core.blocks import from_blocks
from core.cosines import cosines
from core.errors import ConfigurationError, ShapeError
from core.normals import normals
from core.preprocessing import Preprocessing, normalise
from core.principal import added, moments_of, strongest
from core.shield import (
    HighPass,
    Magnitude,
    Noise,
    ShieldPlan,
    apply,
    restore,
    shield_from,
    shielded,
)
from core.shielding import Shielding
from tests.shields import fixed_draw, natural, shield_named, sizes_of

COLOUR = Preprocessing(8, 12, 3, (0.49, 0.48, 0.45), (0.247, 0.243, 0.261))
PIXELS = natural(60, COLOUR)
IMAGES = normalise(PIXELS, COLOUR).astype(np.float64)
SPECS = ["highpass:1", "highpass:9", "highpass:47", "noise:0.1", "magnitude:3"]


def high_pass(dropped: int) -> HighPass:
    shield = shield_named(f"highpass:{dropped}", PIXELS, COLOUR, 4)
    assert isinstance(shield, HighPass)
    return shield


def blocks_of(images: np.ndarray) -> np.ndarray:
    """The slow way: a loop over the blocks."""
    n, _, height, width = images.shape
    found = [
        images[i, :, top : top + 4, left : left + 4].reshape(-1)
        for i in range(n)
        for top in range(0, height, 4)
        for left in range(0, width, 4)
    ]
    return np.array(found)


def left_of(images: np.ndarray, shield: HighPass) -> np.ndarray:
    left = apply(images, shield, fixed_draw())
    return left.transpose(0, 2, 3, 1).reshape(-1, shield.outputs)


def directions(shield: HighPass) -> np.ndarray:
    numbers = np.frombuffer(shield.dropped, "<f4").astype(np.float64)
    return numbers.reshape(-1, 48)


@pytest.mark.parametrize("count", [1, 9, 47])
def test_what_is_dropped_is_not_in_what_is_left(count: int) -> None:
    """Two pictures that differ in the dropped directions alone look the same."""
    shield = high_pass(count)
    rows = shield.projection()
    other = IMAGES.copy()
    for at, one in enumerate(directions(shield)):
        other[:, :, :4, :4] += (at + 1) * one.reshape(3, 4, 4)

    assert np.abs(rows @ directions(shield).T).max() < 1e-12
    assert np.abs(other - IMAGES).max() > 0.1
    assert_allclose(left_of(other, shield), left_of(IMAGES, shield), atol=1e-10)


@pytest.mark.parametrize("count", [1, 9, 47])
def test_what_is_not_dropped_keeps_its_length(count: int) -> None:
    """By Pythagoras: the square of a block is that of both parts together."""
    shield = high_pass(count)
    blocks, left = blocks_of(IMAGES), left_of(IMAGES, shield)
    gone = blocks @ directions(shield).T
    total = (left**2).sum(1) + (gone**2).sum(1)

    assert left.shape == (len(blocks), 48 - count)
    assert_allclose(total, (blocks**2).sum(1), rtol=1e-6)


def test_the_rows_are_orthonormal_and_the_same_bits_each_time() -> None:
    rows = high_pass(9).projection()

    assert_allclose(rows @ rows.T, np.eye(39), atol=1e-13)
    assert rows.tobytes() == high_pass(9).projection().tobytes()


def test_the_directions_dropped_are_those_of_largest_variance() -> None:
    """The oracle is NumPy's singular values of the centred blocks, one by one."""
    blocks = blocks_of(IMAGES)
    _, _, expected = np.linalg.svd(blocks - blocks.mean(0), full_matrices=False)
    dropped = directions(high_pass(9))

    assert_allclose(np.abs((dropped * expected[:9]).sum(1)), 1, atol=1e-5)
    assert (
        np.take_along_axis(dropped, np.abs(dropped).argmax(1)[:, None], 1) > 0
    ).all()
    assert blocks.var(0).sum() > 3 * left_of(IMAGES, high_pass(9)).var(0).sum()


def test_sites_find_together_the_directions_of_all_images() -> None:
    """To the bit: the sums are exact."""
    whole = moments_of(PIXELS, 4)
    parts = added(
        moments_of(part, 4) for part in (PIXELS[:7], PIXELS[7:40], PIXELS[40:])
    )

    assert whole.blocks == parts.blocks == 60 * 6
    assert whole.products.tobytes() == parts.products.tobytes()
    assert (
        strongest(whole, COLOUR, 9).tobytes() == strongest(parts, COLOUR, 9).tobytes()
    )


@pytest.mark.parametrize("dropped", [0, 3, 47])
def test_magnitudes_tell_neither_signs_nor_what_was_dropped(dropped: int) -> None:
    """Pictures whose cosine coefficients have any other signs are the same to see."""
    shield = Magnitude(4, 3, dropped)
    basis = cosines(4, 3)
    coefficients = blocks_of(IMAGES) @ basis.T
    rng = np.random.default_rng(0)
    others = coefficients * rng.choice([-1.0, 1.0], coefficients.shape)
    others[:, :dropped] = rng.standard_normal((len(others), dropped))
    pictures = from_blocks((others @ basis).reshape(len(IMAGES), 2, 3, 48), 4, 3)
    left = np.moveaxis(apply(IMAGES, shield, fixed_draw()), 1, -1)

    assert_allclose(left.reshape(-1, 48 - dropped), np.abs(coefficients)[:, dropped:])
    assert np.abs(pictures - IMAGES).max() > 0.1
    seen = np.moveaxis(apply(pictures, shield, fixed_draw()), 1, -1)
    assert_allclose(seen, left, atol=1e-9)


def test_magnitudes_keep_the_length_of_every_block() -> None:
    left = apply(IMAGES, Magnitude(4, 3, 0), fixed_draw())
    whole = (blocks_of(IMAGES) ** 2).sum()

    assert left.min() >= 0
    assert_allclose((left**2).sum(), whole, rtol=1e-9)


def test_what_is_left_shows_the_picture_without_what_was_dropped() -> None:
    shield = high_pass(9)
    seen = restore(apply(IMAGES, shield, fixed_draw()), shield)

    assert seen.shape == IMAGES.shape
    assert_allclose(blocks_of(seen) @ directions(shield).T, 0, atol=1e-6)
    assert_allclose(left_of(seen, shield), left_of(IMAGES, shield), atol=1e-12)


def test_noise_is_white_and_as_strong_as_it_says_on_the_scale_of_pixels() -> None:
    """Of 276,000 numbers a channel the deviation is off by 1 % once in 10^12 draws."""
    p = Preprocessing(96, 96, 3, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    grey = normalise(np.full((30, 96, 96, 3), 128, np.uint8), p)
    shield = Noise(4, 0.1, p.std)
    seen = restore(apply(grey, shield, fixed_draw()), shield) - grey
    for channel, std in enumerate(p.std):
        assert seen[:, channel].std() * std == pytest.approx(0.1, rel=0.01)
        assert abs(seen[:, channel].mean() * std) < 0.001
    blocks = np.corrcoef(blocks_of(seen).T)

    assert np.abs(blocks - np.eye(48)).max() < 0.05


def test_drawn_numbers_are_normal() -> None:
    """Kolmogorov's distance of 10^6 numbers: above 0.0019 once in 1,000 draws."""
    drawn = np.sort(normals(100, 10_000, fixed_draw(3)).reshape(-1).astype(np.float64))
    below = torch.special.ndtr(torch.from_numpy(drawn)).numpy()
    steps = np.arange(len(drawn) + 1) / len(drawn)
    distance = max(np.abs(below - steps[1:]).max(), np.abs(below - steps[:-1]).max())

    assert distance < 0.0019
    assert np.abs(drawn).max() < 6.8
    assert (drawn**4).mean() == pytest.approx(3, abs=0.05)


def test_halves_of_a_draw_have_nothing_to_do_with_each_other() -> None:
    """The two numbers that Box and Muller make of one pair are independent."""
    first, second = np.split(normals(1000, 1000, fixed_draw(1)), 2, axis=1)

    for left, right in ((first, second), (first**2, second**2), (abs(first), second)):
        assert abs(np.corrcoef(left.reshape(-1), right.reshape(-1))[0, 1]) < 0.006


@pytest.mark.parametrize("numbers", [1, 5, 48])
def test_each_picture_has_its_own_draw_however_many_are_drawn_for(numbers: int) -> None:
    entropy = fixed_draw()
    together = normals(4, numbers, fixed_draw())
    alone = [normals(1, numbers, entropy)[0] for _ in range(4)]

    assert together.shape == (4, numbers)
    np.testing.assert_array_equal(together, alone)
    assert len({row.tobytes() for row in together}) == 4


@pytest.mark.parametrize(
    "spec", ["highpass:9", "highpass:47", "magnitude:0", "magnitude:9"]
)
def test_training_sees_what_an_owner_sends(spec: str) -> None:
    """torch's convolution against the loop over blocks."""
    shield = shield_named(spec, PIXELS, COLOUR, 4)
    images = IMAGES.astype(np.float32)
    found = Shielding.of(shield)(torch.from_numpy(images), Generator()).numpy()

    assert_allclose(found, apply(images, shield, fixed_draw()), atol=1e-5)


@pytest.mark.parametrize("spec", ["highpass:9", "magnitude:0", "magnitude:9"])
def test_an_attacker_finds_the_nearest_pictures_that_agree(spec: str) -> None:
    """None that agrees is nearer, of many that agree; and agreeing ones stay."""
    front = Shielding.of(shield_named(spec, PIXELS, COLOUR, 4))
    images = torch.from_numpy(IMAGES).float()
    left = front(images, Generator())
    start = images + 0.3 * torch.randn(images.shape, generator=Generator())
    found = front.agreeing(left, start)
    others = [front.agreeing(left, start + 0.1 * images.roll(n, 0)) for n in (1, 2, 3)]

    torch.testing.assert_close(front(found, Generator()), left, atol=1e-4, rtol=0)
    torch.testing.assert_close(front.agreeing(left, images), images, atol=1e-4, rtol=0)
    for other in others:
        assert (found - start).norm() < (other - start).norm()


def test_training_drowns_pictures_as_deep_as_an_owner_does() -> None:
    shield = Noise(4, 0.1, COLOUR.std)
    images = torch.zeros(200, 3, 8, 12)
    front = Shielding.of(shield)
    found = [front(images, Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    drawn = restore(found[0].numpy(), shield).std(axis=(0, 2, 3)) * np.array(COLOUR.std)

    assert_allclose(drawn, 0.1, rtol=0.03)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("spec", SPECS)
def test_a_shield_is_read_back_from_what_a_manifest_says(spec: str) -> None:
    shield = shield_named(spec, PIXELS, COLOUR, 4)
    again = shield_from(shield.to_dict(), COLOUR)

    assert again == shield
    assert (again.spec, again.outputs) == (spec, shield.outputs)


@pytest.mark.parametrize("spec", SPECS)
def test_a_model_reads_the_numbers_that_are_left_of_each_block(spec: str) -> None:
    shield = shield_named(spec, PIXELS, COLOUR, 4)
    whole = sizes_of(COLOUR, 4)
    small = shielded(whole, shield)

    assert (small.channels, small.patch_size) == (shield.outputs, 1)
    assert (small.rows, small.columns) == (whole.rows, whole.columns)
    assert small.dimension == shield.outputs
    assert shielded(whole, None) is whole


@pytest.mark.parametrize(
    "text",
    [
        *("", "None", "highpass", "highpass:", "highpass:0", "highpass:-1"),
        *("highpass:1.5", "highpass:\u0663", "highpass:9999999999999", "none:1"),
        *("noise", "noise:", "noise:0", "noise:-0.1", "noise:nan", "noise:inf"),
        *("magnitude", "magnitude:", "magnitude:-1", "magnitude:1.5"),
        *("noise:1e9", "encoder:3", "highpass:3+noise:0.1"),
    ],
)
def test_what_is_no_shield_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="shield"):
        ShieldPlan.parse(text)


@pytest.mark.parametrize(
    ("text", "patch"),
    [("highpass:48", 4), ("highpass:14", 16), ("magnitude:48", 4)],
)
def test_more_than_a_block_or_a_manifest_holds_is_not_dropped(
    text: str, patch: int
) -> None:
    with pytest.raises(ConfigurationError, match="shield"):
        ShieldPlan.parse(text).require_fit(patch, 3)


def changed(**entries: Any) -> dict[str, Any]:
    return {**high_pass(2).to_dict(), **entries}


def packed(rows: np.ndarray) -> str:
    return base64.b64encode(rows.astype("<f4").tobytes()).decode()


@pytest.mark.parametrize(
    "entries",
    [
        changed(kind="low"),
        changed(kind=3),
        changed(sigma=0.1),
        changed(patch_size=True),
        changed(patch_size=0),
        changed(patch_size=2),
        changed(patch_size=1000),
        changed(dropped=""),
        changed(dropped=7),
        changed(dropped="?"),
        changed(dropped=packed(np.eye(48)[:1])[:-4]),
        changed(dropped=packed(np.eye(48)[:1])[:-2] + "B="),
        changed(dropped=packed(np.eye(48))),
        changed(dropped=packed(2 * np.eye(48)[:2])),
        changed(dropped=packed(np.ones((2, 48)) / 48**0.5)),
        changed(dropped=packed(np.full((1, 48), np.nan))),
        changed(dropped=packed(np.full((1, 48), np.inf))),
        {"kind": "highpass", "patch_size": 4},
        {"kind": "noise", "patch_size": 4},
        *(
            {"kind": "noise", "patch_size": 4, "sigma": sigma}
            for sigma in (0, -1, True, "0.1", None, 101)
        ),
        *(
            {"kind": "magnitude", "patch_size": 4, "dropped": dropped}
            for dropped in (48, -1, True, "3", None, 1.0)
        ),
        {"kind": "magnitude", "patch_size": 0, "dropped": 0},
        {"kind": "magnitude", "patch_size": 4},
        {},
    ],
)
def test_a_broken_shield_is_refused(entries: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="shield"):
        shield_from(entries, COLOUR)


def test_pictures_of_another_form_are_refused() -> None:
    shield = high_pass(9)

    with pytest.raises(ShapeError):
        apply(IMAGES[:, :1], shield, fixed_draw())
    with pytest.raises(ShapeError):
        restore(IMAGES, shield)
