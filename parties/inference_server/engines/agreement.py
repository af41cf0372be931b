"""How far a network that rounds more is from the one that does not."""

from typing import Final

import numpy as np

from core.architecture import Architecture
from parties.inference_server.engine import Logits, Network, Tokens

IMAGES: Final = 256
_BATCH: Final = 32


def agreement(
    exact: Network, rounding: Network, architecture: Architecture
) -> dict[str, str]:
    """Compare both on the same random tokens; facts for a model's metadata."""
    batches = [random_tokens(architecture, _BATCH, s) for s in range(IMAGES // _BATCH)]
    expected = np.concatenate([exact.forward(each) for each in batches])
    got = np.concatenate([rounding.forward(each) for each in batches])
    return {
        "agreement_with_float32_top1": f"{same_top(expected, got):.4f}",
        "agreement_largest_difference": f"{np.abs(expected - got).max():.6f}",
        "agreement_measured_on": f"{IMAGES} images of random tokens",
    }


def random_tokens(architecture: Architecture, images: int, seed: int) -> Tokens:
    """Draw tokens as a trained embedding gives them: about 0, of about 1."""
    a = architecture
    drawn = np.random.default_rng(seed).standard_normal(
        (images, a.rows, a.columns, a.hidden), dtype=np.float32
    )
    return np.asarray(drawn)


def same_top(expected: Logits, got: Logits) -> float:
    """The share of images of which both say the same class."""
    return float(np.mean(expected.argmax(axis=1) == got.argmax(axis=1)))
