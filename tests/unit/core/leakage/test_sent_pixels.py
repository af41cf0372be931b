"""What a shield leaves: an attack sees that and no more."""

import numpy as np
import pytest

from core.errors import DataError
from core.leakage import restoring
from core.leakage.bounds import left_out
from core.leakage.colour_signs import Colours
from core.leakage.default_set import ATTACKS
from core.leakage.fidelity import Pictures, fidelity
from core.leakage.material import Finding, Material
from core.leakage.restoring import LARGEST, TiledEstimate, hindrance, learned
from core.leakage.schemes.block_key import Pixels
from core.leakage.schemes.random_orthogonal import draw
from core.leakage.sent_pixels import SentPixels, as_channels, lift_of, sent_blocks
from core.preprocessing import Preprocessing
from core.shield import Noise, Shield
from tests.shields import shield_named

PLAIN = Preprocessing(16, 16, 3, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture(scope="module")
def highpass(pictures: Pictures) -> Shield:
    """Drops the three strongest of twelve directions."""
    pixels = np.rint(255 * pictures).astype(np.uint8).transpose(0, 2, 3, 1)
    return shield_named("highpass:3", pixels, PLAIN, 2)


def through(shield: Shield) -> SentPixels:
    return SentPixels.of(PLAIN, 2, shield)


def moved(pictures: Pictures, sent: SentPixels, shield: Shield) -> Pictures:
    """Other pictures that differ only in the directions that are dropped."""
    blocks = sent.pixels.blocks(pictures)
    kept = shield.projection()
    changed = np.random.default_rng(1).standard_normal(blocks.shape)
    return sent.pixels.pictures(blocks + changed - changed @ kept.T @ kept)


def test_what_is_dropped_changes_nothing_that_is_attacked(
    pictures: Pictures, highpass: Shield
) -> None:
    """Two pictures that differ in dropped directions alone look the same."""
    sent = learned(through(highpass), pictures[100:], np.random.default_rng(0))
    own = pictures[:4]
    other = moved(own, sent, highpass)
    key = draw(sent, np.random.default_rng(2))

    assert np.abs(own - other).max() > 0.1
    assert key.encrypt(other) == pytest.approx(key.encrypt(own), abs=1e-5)
    one, two = (key.decrypt(key.encrypt(each)) for each in (own, other))
    assert one == pytest.approx(two, abs=1e-3)


def test_the_estimate_recovers_more_than_the_key_alone(
    pictures: Pictures, highpass: Shield
) -> None:
    """From all blocks; and from blocks of noise it recovers little."""
    own, public = pictures[:24], pictures[24:]
    sent = learned(through(highpass), public, np.random.default_rng(0))
    blocks = sent.blocks(own)
    noise = np.random.default_rng(3).permutation(blocks.ravel()).reshape(blocks.shape)

    with_key = fidelity(own, sent.shown(blocks)).ssim
    estimated = fidelity(own, sent.pictures(blocks)).ssim

    assert estimated > with_key + 0.1
    assert fidelity(own, sent.pictures(noise)).ssim < 0.3


def test_noise_is_drawn_for_every_picture_and_is_the_seeds(pictures: Pictures) -> None:
    sent, own = through(Noise(2, 0.1, PLAIN.std)), pictures[:6]
    first, again = (draw(sent, np.random.default_rng(4)) for _ in range(2))
    hidden = first.encrypt(own)

    apart = first.encrypt(own) - hidden
    assert apart.std() == pytest.approx(0.1 * np.sqrt(2), rel=0.1)
    assert np.array_equal(again.encrypt(own), hidden)
    assert np.array_equal(again.matrix, draw(Pixels(2, 3), _rng(4)).matrix)


def test_without_noise_the_key_sends_the_blocks(
    pictures: Pictures, highpass: Shield
) -> None:
    sent = through(highpass)

    assert draw(sent, _rng(0)).sent is None
    blocks = sent_blocks(sent, pictures[:2], _rng(0))
    assert np.array_equal(blocks, sent.blocks(pictures[:2]))


def test_colours_are_mirrored_among_what_is_left(
    pictures: Pictures, highpass: Shield
) -> None:
    """The first of the eight mirrors nothing."""
    sent = through(highpass)
    matrix = draw(sent, _rng(5)).matrix

    mirrored = Colours(pictures, lift_of(sent)).mirrored(matrix)

    assert {each.shape for each in mirrored} == {(9, 9)}
    assert mirrored[0] == pytest.approx(matrix)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_every_attack_runs_on_what_a_shield_leaves(
    pictures: Pictures, highpass: Shield, sigma: float
) -> None:
    """No attack recovers more than the right key and the estimate do."""
    shield: Shield = Noise(2, sigma, PLAIN.std) if sigma else highpass
    own, public = pictures[:14], pictures[14:]
    sent = learned(through(shield), public, _rng(0))
    material = Material(own, public, sent, _embedding(sent.dimension))

    found = [
        each
        for attack in ATTACKS.values()
        for each in attack(material)
        if isinstance(each, Finding)
    ]

    ceiling = fidelity(own, sent.pictures(sent.sent(own, _rng(1)))).ssim
    best = max(each.fidelity.ssim for each in found)
    assert ceiling - 0.05 < best < ceiling + 0.05
    assert best < 0.97


def test_conventional_schemes_are_left_out_under_a_shield(
    pictures: Pictures, highpass: Shield
) -> None:
    sent = through(highpass)
    shielded = Material(pictures[:12], pictures[12:], sent, _embedding(9))
    plain = Material(pictures[:12], pictures[12:], Pixels(2, 3), _embedding(12))

    assert set(left_out(shielded)) == {
        *("schemes, known plaintext", "scrambling"),
        *("schemes, ciphertext only", "jigsaw"),
    }
    assert left_out(plain) == {}
    large = Material(pictures[:12], pictures[12:], Pixels(8, 3), _embedding(192))
    assert set(left_out(large)) == {"schemes, ciphertext only", "jigsaw"}


def test_what_cannot_be_learned_says_why(pictures: Pictures, highpass: Shield) -> None:
    sent = through(highpass)
    large = np.zeros((20, 3, 74, 74))

    assert hindrance(sent, pictures) == ""
    assert "19 public pictures" in hindrance(sent, pictures[:19])
    assert str(LARGEST) in hindrance(sent, large)
    with pytest.raises(DataError, match="20"):
        learned(sent, pictures[:19], _rng(0))


def test_a_large_picture_is_estimated_tile_by_tile(
    pictures: Pictures, highpass: Shield, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16x16 pixels each 8x8, from all of its own blocks; put together again."""
    monkeypatch.setattr(restoring, "LARGEST", 200)
    sent = learned(through(highpass), pictures[24:], _rng(0))
    own, estimate = pictures[:24], sent.estimate
    blocks = sent.blocks(own)

    assert isinstance(estimate, TiledEstimate)
    assert estimate.side == 4
    corner = estimate.linear(as_channels(blocks[1:, 4:, :4]))
    assert sent.pictures(blocks)[1:, :, 8:, :8] == pytest.approx(corner, abs=1e-5)
    better = fidelity(own, sent.pictures(blocks)).ssim
    assert better > fidelity(own, sent.shown(blocks)).ssim + 0.05


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _embedding(dimension: int) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((32, dimension))
