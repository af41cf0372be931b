"""The shapes and types in the core's signatures are true.

In a process of its own: the hook that checks them would also answer bad input, before
the typed errors that the other tests are about.
"""

import subprocess
import sys

import pytest

CHECKED = """
from jaxtyping import TypeCheckError, install_import_hook

modules = ("blocks", "convmixer", "keys", "orthogonal", "preprocessing", "training",
           "transform", "wire")
install_import_hook([f"core.{name}" for name in modules], "beartype.beartype")

import numpy as np
import torch
from core import blocks, convmixer, keys, preprocessing, training, transform, wire
from core.architecture import Architecture
"""

FLOW = """
a = Architecture(hidden=4, depth=1, height=8, width=12)
p = preprocessing.Preprocessing(8, 12, 3, (0.5,) * 3, (0.5,) * 3)
pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 12, 3), dtype=np.uint8)
images = preprocessing.normalise(pixels, p)
preprocessing.denormalise(images, p)
key = keys.derive_key(bytes(32), key_id="k", version=1, patch_size=4, channels=3)
model = convmixer.initialise(a, seed=0)
examples = training.Examples(images, np.arange(8))
training.fit(model, examples, examples, training.Recipe(epochs=1, batch=4))
weight, backbone = convmixer.take_apart(model)
issued = transform.transform_embedding(weight, key)
encrypted = blocks.encrypt(images, key)
blocks.decrypt(encrypted, key)
arrived = wire.from_bytes(wire.to_bytes(encrypted), encrypted.shape)
tokens = transform.embed(arrived, issued, backbone["embedding.bias"])
model.forward_tokens(torch.from_numpy(tokens))
transform.embedding_digest(issued)
"""

WRONG = """
try:
    transform.flatten_embedding(np.zeros((4, 3, 2, 5), dtype=np.float32))
except TypeCheckError:
    print("noticed")
"""


@pytest.mark.slow
def test_a_whole_keyed_inference_keeps_to_the_signatures() -> None:
    done = _run(CHECKED + FLOW)

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.slow
def test_a_kernel_that_is_not_square_is_noticed() -> None:
    """Were the hook not at work, the test above would pass for nothing."""
    assert _run(CHECKED + WRONG).stdout == "noticed\n"


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
