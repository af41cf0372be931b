"""`W A^T A x = W x`: the keyed model answers as the plain one, whatever its shape."""

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.nn.functional import conv2d

from core.architecture import Architecture
from core.blocks import encrypt, to_blocks
from core.convmixer import embed_blocks, initialise, put_together, take_apart
from core.keys import BlockKey, derive_key
from core.training import predict_logits
from core.transform import embed, flatten_embedding, transform_embedding
from tests.strategies import architectures, keys, seeds


@given(keys(), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_transformed_embedding_reads_encrypted_blocks_as_the_plain_one_reads_images(
    key: BlockKey, hidden: int, seed: int
) -> None:
    """The oracle is torch's own convolution, which knows nothing of blocks."""
    p = key.patch_size
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((hidden, key.channels, p, p)).astype(np.float32)
    bias = rng.standard_normal(hidden).astype(np.float32)
    images = rng.standard_normal((2, key.channels, 2 * p, 3 * p)).astype(np.float32)

    tokens = embed(encrypt(images, key), transform_embedding(weight, key), bias)
    plain = conv2d(
        torch.from_numpy(images),
        torch.from_numpy(weight),
        torch.from_numpy(bias),
        stride=p,
    )

    assert_allclose(tokens.transpose(0, 3, 1, 2), plain.numpy(), atol=1e-4)


@settings(max_examples=40)
@given(architectures(), seeds)
def test_the_whole_keyed_model_gives_the_plain_models_logits(
    architecture: Architecture, seed: bytes
) -> None:
    a = architecture
    model = initialise(a, seed=1).eval()
    key = derive_key(
        seed, key_id="k", version=1, patch_size=a.patch_size, channels=a.channels
    )
    images = np.random.default_rng(2).standard_normal(
        (3, a.channels, a.height, a.width), dtype=np.float32
    )
    weight, backbone = take_apart(model)
    server = put_together(a, backbone)

    tokens = embed_blocks(
        torch.from_numpy(encrypt(images, key)),
        torch.from_numpy(transform_embedding(weight, key)),
        torch.from_numpy(backbone["embedding.bias"]),
    )
    keyed = server.forward_tokens(tokens).numpy()

    assert_allclose(keyed, predict_logits(model, images), atol=1e-4)


@given(keys(), seeds)
def test_another_key_reads_something_else(key: BlockKey, seed: bytes) -> None:
    assume(key.dimension > 1)
    p, c = key.patch_size, key.channels
    other = derive_key(seed, key_id="o", version=1, patch_size=p, channels=c)
    assume(not np.array_equal(other.matrix, key.matrix))
    weight = np.eye(c * p * p, dtype=np.float32).reshape(-1, c, p, p)
    images = np.random.default_rng(0).standard_normal((4, c, p, p))

    read = encrypt(images, key) @ transform_embedding(weight, other).T
    plain = to_blocks(images, p) @ flatten_embedding(weight).T

    assert np.abs(read - plain).max() > 1e-3
