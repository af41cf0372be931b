"""Of a picture and its negative the one counts that an onlooker would take."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.leakage import comparison
from core.leakage.fidelity import Pictures
from core.leakage.schemes import pixel_shuffling


@pytest.mark.parametrize("sign", [1, -1])
def test_the_negative_of_a_right_key_is_a_right_key(
    pictures: Pictures, sign: int
) -> None:
    """An attacker that finds the key up to its sign is told what it is worth."""
    rng = np.random.default_rng(0)
    key = pixel_shuffling.draw_negated(2, 3, rng)
    attacker: Any = SimpleNamespace(
        attack=lambda *_, **__: SimpleNamespace(matrix=sign * key.matrix.T)
    )

    found = comparison._alone([(pictures[:12], key)], attacker, 1, rng)

    assert found.fidelity.ssim == pytest.approx(1.0)


def test_an_upright_picture_counts_whichever_way_it_was_found(
    pictures: Pictures,
) -> None:
    own = pictures[:12]
    lying = np.rot90(own, 1, axes=(2, 3))[..., ::-1]

    assert (comparison._upright(own, lying) == own).all()
