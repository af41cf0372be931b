"""The algebra that makes encrypted inference correct, for blocks of every shape."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from core.blocks import decrypt, encrypt, from_blocks, to_blocks
from core.keys import BlockKey
from tests.strategies import images_for, keys


@given(st.data(), keys())
def test_decrypt_undoes_encrypt(data: st.DataObject, key: BlockKey) -> None:
    images = data.draw(images_for(key))

    assert_allclose(decrypt(encrypt(images, key), key), images, atol=1e-13)


@given(st.data(), keys())
def test_decrypt_undoes_encrypt_in_single_precision(
    data: st.DataObject, key: BlockKey
) -> None:
    images = data.draw(images_for(key)).astype(np.float32)
    encrypted = encrypt(images, key)

    assert encrypted.dtype == np.float32
    assert_allclose(decrypt(encrypted, key), images, atol=5e-5)


@given(st.data(), keys())
def test_every_block_keeps_its_length(data: st.DataObject, key: BlockKey) -> None:
    """What an orthogonal matrix keeps is also what it gives away: the norms."""
    images = data.draw(images_for(key))
    plain = np.linalg.norm(to_blocks(images, key.patch_size), axis=-1)

    assert_allclose(np.linalg.norm(encrypt(images, key), axis=-1), plain, atol=1e-12)


@given(st.data(), keys())
def test_images_survive_the_cutting_bit_for_bit(
    data: st.DataObject, key: BlockKey
) -> None:
    images = data.draw(images_for(key))
    blocks = to_blocks(images, key.patch_size)

    assert_array_equal(from_blocks(blocks, key.patch_size, key.channels), images)
