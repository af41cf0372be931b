"""A card's figures: what is recovered where it should be, and not where it cannot."""

import numpy as np
import pytest

from core.datasets import load
from core.errors import DataError, ShapeError
from core.leakage.fidelity import Pictures
from core.leakage.quick_set import FEWEST, measure_card
from core.leakage.sent_pixels import SentPixels
from core.preprocessing import Preprocessing
from core.shield import HighPass, Noise, Shield

DIGITS = Preprocessing(8, 8, 1, (0.3,), (0.35,))


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Handwritten digits, 8x8, from 0 to 1."""
    return np.moveaxis(load("digits", "train").images, -1, 1)[:300] / 255


def figures(pictures: Pictures, shield: Shield | None = None) -> dict[str, float]:
    sent = SentPixels.of(DIGITS, 2, shield)
    card = measure_card(pictures[:24], pictures[24:], sent)
    return {f"{each.name}, {each.setting[:2]}": each.ssim for each in card.attacks}


def test_a_card_has_every_attack_and_what_it_was_measured_on(
    pictures: Pictures,
) -> None:
    card = measure_card(pictures[:24], pictures[24:], SentPixels.of(DIGITS, 2, None))

    assert [each.name for each in card.attacks] == [
        *("norm map", "known plaintext", "known plaintext", "ciphertext only")
    ]
    assert (card.images, card.public_images) == (24, 276)
    assert card.scheme == "random orthogonal"
    assert 1 <= card.effective_rank <= 4


def test_the_same_pictures_and_seed_have_the_same_card(pictures: Pictures) -> None:
    assert figures(pictures) == figures(pictures)


def test_more_known_blocks_than_a_block_has_numbers_are_exact(
    pictures: Pictures,
) -> None:
    """D is 4; what a shield drops stays lost, whatever is known."""
    dropped = HighPass.of(np.full((1, 4), 0.5, dtype=np.float32), 2)
    exact, shielded = figures(pictures), figures(pictures, dropped)

    assert exact["known plaintext, 12"] > 0.999
    assert shielded["known plaintext, 12"] < 0.9


def test_noise_is_a_ceiling_for_every_attack(pictures: Pictures) -> None:
    found = figures(pictures, Noise(2, 1.0, DIGITS.std))

    assert max(found.values()) < 0.6
    assert found["known plaintext, 12"] < figures(pictures)["known plaintext, 12"]


def test_the_scheme_names_the_shield(pictures: Pictures) -> None:
    sent = SentPixels.of(DIGITS, 2, Noise(2, 0.1, DIGITS.std))

    assert measure_card(pictures[:24], pictures[24:], sent).scheme == (
        "random orthogonal, noise:0.1"
    )


def test_too_few_or_too_small_pictures_are_refused(pictures: Pictures) -> None:
    sent = SentPixels.of(DIGITS, 2, None)
    with pytest.raises(DataError, match="12 pictures"):
        measure_card(pictures[: FEWEST - 1], pictures, sent)
    with pytest.raises(DataError, match="12 pictures"):
        measure_card(pictures[:24], pictures[: FEWEST - 1], sent)
    with pytest.raises(ShapeError, match="too small"):
        measure_card(pictures[:24, :, :6, :6], pictures[:, :, :6, :6], sent)


def test_pictures_that_do_not_differ_are_refused() -> None:
    grey = np.full((40, 1, 8, 8), 0.5)
    with pytest.raises(DataError, match="do not differ"):
        measure_card(grey[:20], grey[20:], SentPixels.of(DIGITS, 2, None))
