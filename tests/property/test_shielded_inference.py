"""`W A^T A s(x) = W s(x)`: a shielded model answers through a key as it does plainly.

For noise that is said of one draw: both sides are given the same.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from core.blocks import decrypt, encrypt
from core.convmixer import embed_blocks, initialise, put_together, take_apart
from core.errors import KeyMismatchError
from core.keys import BlockKey, derive_key
from core.pixels import PixelKey
from core.preprocessing import Preprocessing, normalise
from core.shield import Shield, apply, restore, shielded
from core.training import predict_logits
from core.transform import transform_embedding
from tests.shields import fixed_draw, natural, shield_named, sizes_of
from tests.strategies import seeds

COLOUR = Preprocessing(8, 12, 3, (0.49, 0.48, 0.45), (0.247, 0.243, 0.261))
GREY = Preprocessing(6, 6, 1, (0.13,), (0.31,))
SPECS = [
    "highpass:1",
    "highpass:3",
    "noise:0.03",
    "noise:2",
    "magnitude:0",
    "magnitude:3",
]


def key_for(shield: Shield, seed: bytes = bytes(32)) -> BlockKey:
    return derive_key(
        seed, key_id="k", version=1, patch_size=1, channels=shield.outputs
    )


@settings(max_examples=30)
@given(
    spec=st.sampled_from(SPECS),
    form=st.sampled_from([(COLOUR, 2), (COLOUR, 4), (GREY, 3)]),
    seed=seeds,
    draw=st.integers(0, 255),
)
def test_the_keyed_model_gives_the_plain_shielded_models_logits(
    spec: str, form: tuple[Preprocessing, int], seed: bytes, draw: int
) -> None:
    p, side = form
    pixels = natural(5, p, seed=draw)
    shield = shield_named(spec, natural(40, p), p, side)
    model = initialise(shielded(sizes_of(p, side), shield), seed=1).eval()
    weight, backbone = take_apart(model)
    key = key_for(shield, seed)

    sent = PixelKey.of(key, p, shield).encrypt(pixels, fixed_draw(draw))
    tokens = embed_blocks(
        torch.from_numpy(sent),
        torch.from_numpy(transform_embedding(weight, key)),
        torch.from_numpy(backbone["embedding.bias"]),
    )
    server = put_together(model.architecture, backbone)
    keyed = server.forward_tokens(tokens).numpy()
    plain = predict_logits(model, apply(normalise(pixels, p), shield, fixed_draw(draw)))

    assert_allclose(keyed, plain, atol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 3, 1200])
@pytest.mark.parametrize("spec", SPECS)
def test_one_step_is_the_plain_steps_up_to_rounding(spec: str, n: int) -> None:
    """Normalise, shield, encrypt; 1,200 pictures are more than one chunk."""
    shield = shield_named(spec, natural(40, COLOUR), COLOUR, 4)
    key, pixels = key_for(shield), natural(n, COLOUR, seed=2)
    left = apply(normalise(pixels, COLOUR), shield, fixed_draw())
    expected = encrypt(left, key)

    found = PixelKey.of(key, COLOUR, shield).encrypt(pixels, fixed_draw())

    assert found.dtype == np.float32
    assert expected.shape == found.shape
    assert np.abs(expected - found).max(initial=0) < 2e-5


def test_noise_is_fresh_each_time_and_a_high_pass_is_not() -> None:
    """Without being told what to draw from: that is how an owner encrypts."""
    pixels = natural(2, COLOUR)
    for spec, differs in {
        "noise:0.1": True,
        "highpass:3": False,
        "magnitude:3": False,
    }.items():
        shield = shield_named(spec, pixels, COLOUR, 4)
        folded = PixelKey.of(key_for(shield), COLOUR, shield)
        once, again = folded.encrypt(pixels), folded.encrypt(pixels)
        twins = folded.encrypt(np.stack([pixels[0], pixels[0]]))

        assert differs == (np.abs(once - again).min() > 0)
        assert differs == (np.abs(twins[0] - twins[1]).max() > 0.1)


def test_the_key_gives_back_no_more_than_the_shield_left() -> None:
    pixels = natural(3, COLOUR)
    shield = shield_named("highpass:9", pixels, COLOUR, 4)
    key, images = key_for(shield), normalise(pixels, COLOUR)
    left = apply(images, shield, fixed_draw())

    back = decrypt(PixelKey.of(key, COLOUR, shield).encrypt(pixels), key)

    assert_allclose(back, left, atol=1e-5)
    assert_allclose(restore(back, shield), restore(left, shield), atol=1e-5)
    assert np.abs(restore(back, shield) - images).max() > 0.5


@pytest.mark.parametrize(("side", "channels"), [(4, 3), (1, 48), (1, 38), (2, 39)])
def test_a_key_of_another_size_is_refused(side: int, channels: int) -> None:
    shield = shield_named("highpass:9", natural(40, COLOUR), COLOUR, 4)
    key = derive_key(
        bytes(32), key_id="k", version=1, patch_size=side, channels=channels
    )

    with pytest.raises(KeyMismatchError, match="39"):
        PixelKey.of(key, COLOUR, shield)
