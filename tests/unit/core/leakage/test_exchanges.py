"""Keys that only move numbers: found whole, unless public pictures tell nothing."""

import numpy as np
import pytest

from core.errors import ShapeError
from core.leakage.exchanges import Exchanges, _Form, _gains, _State
from core.leakage.fidelity import Pictures
from core.leakage.moments import WindowMoments
from core.leakage.schemes.block_key import BlockKey, Pixels, signed_permutation
from core.leakage.schemes.pixel_shuffling import draw_negated, draw_shuffled

COORDINATES = Pixels(2, 3, mean=0.5)


def _right(matrix: np.ndarray, key: BlockKey) -> float:
    """The share of numbers in place, up to the negative of all of them."""
    shares = [
        (matrix @ key.matrix == s * np.eye(12)).all(axis=0).mean() for s in (1, -1)
    ]
    return float(max(shares))


@pytest.mark.parametrize("signed", [True, False])
def test_transformed_pictures_alone_give_the_very_key(
    signed: bool, pictures: Pictures
) -> None:
    draw = draw_negated if signed else draw_shuffled
    key = draw(2, 3, np.random.default_rng(1))
    attacker = Exchanges(COORDINATES.blocks(pictures[40:]))

    guess = attacker.attack(
        key.encrypt(pictures[:40]), 6, np.random.default_rng(0), signed=signed
    )

    assert _right(guess.matrix, key) == 1.0


def test_public_noise_gives_no_key(pictures: Pictures) -> None:
    """The assumption taken away: the same pixels, without what lies beside what."""
    key = draw_negated(2, 3, np.random.default_rng(1))
    pixels = pictures.transpose(0, 2, 3, 1).reshape(-1, 3)
    shuffled = np.random.default_rng(0).permutation(pixels)
    noise = shuffled.reshape(len(pictures), 16, 16, 3).transpose(0, 3, 1, 2)

    guess = Exchanges(COORDINATES.blocks(noise)).attack(
        key.encrypt(pictures[:40]), 6, np.random.default_rng(0), signed=True
    )

    assert _right(guess.matrix, key) < 0.5


def test_the_gain_of_every_exchange_is_the_difference_of_two_losses() -> None:
    """All of them at once, against one exchange made and the loss taken anew."""
    rng = np.random.default_rng(0)
    public, seen = (
        rng.standard_normal((30, 4, 4, 5)) @ rng.standard_normal((5, 5)) + 0.3
        for _ in range(2)
    )
    form = _Form.of(WindowMoments.of(public), 0.05)
    windows = WindowMoments.of(seen)
    start = signed_permutation(rng.permutation(5), rng.choice((-1.0, 1.0), 5))
    state = _State(windows, start)
    gains, signs = _gains(form, state, signed=True)

    for p, q in np.ndindex(5, 5):
        after = []
        for a, b in ((1, 1), (-1, -1), (1, -1), (-1, 1)) if p != q else ((-1, -1),):
            moved = _State(windows, start)
            moved._exchange(p, q, np.array([a, b]))
            assert moved.loss(form) == pytest.approx(
                _State(windows, moved.matrix).loss(form)
            )
            after.append(moved.loss(form))
        assert gains[p, q] == pytest.approx(min(after) - state.loss(form))
        state_again = _State(windows, start)
        state_again._exchange(p, q, signs[:, p, q])
        assert state_again.loss(form) == pytest.approx(min(after))


def test_what_does_not_fit_is_refused(pictures: Pictures) -> None:
    attacker = Exchanges(COORDINATES.blocks(pictures[:20]))

    with pytest.raises(ShapeError, match="12"):
        attacker.attack(
            np.zeros((1, 4, 4, 48)), 1, np.random.default_rng(0), signed=True
        )
    with pytest.raises(ShapeError, match="start"):
        attacker.attack(
            np.zeros((1, 4, 4, 12)), 0, np.random.default_rng(0), signed=True
        )
