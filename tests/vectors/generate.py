"""Known-answer vectors: `python -m tests.vectors.generate` writes them anew.

They freeze what a seed means. A change that makes a test against them fail would turn
every key ever issued into another: give the generator a new name instead.
"""

import hashlib
import json
from pathlib import Path
from typing import Final

import numpy as np

from core.keys import commitment, derive_key, possession_tag
from core.orthogonal import GENERATOR, haar
from core.transform import embedding_digest, transform_embedding

FOLDER: Final = Path(__file__).parent
SEEDS: Final = (bytes(32), bytes(range(32)), b"\xff" * 32)
WRITTEN_OUT: Final = (1, 2, 3, 12)
DIGESTED: Final = (*WRITTEN_OUT, 27, 48, 147, 192)
# (hidden, channels, patch size): 28x28 grey, CIFAR-10, photographs at a patch of 7.
EMBEDDINGS: Final = ((16, 1, 7), (128, 3, 4), (32, 3, 7))

OWNER: Final = "spiffe://vectors/clinic-a/data-owner"


def vectors() -> dict[str, object]:
    """Return the content of every file, by its name."""
    return {
        "haar.json": {
            "generator": GENERATOR,
            "matrices": [_matrix(seed, d) for seed in SEEDS for d in WRITTEN_OUT],
            "digests": [_digest(seed, d) for seed in SEEDS for d in DIGESTED],
        },
        "keys.json": {
            "commitments": [_commitment(s, b) for s in SEEDS for b in SEEDS],
            "possession_tags": [_tag(s, version) for s in SEEDS for version in (1, 2)],
        },
        "embeddings.json": [_embedding(s, *e) for s in SEEDS for e in EMBEDDINGS],
    }


def render(content: object) -> str:
    return json.dumps(content, indent=1) + "\n"


def main() -> None:
    """Write every file."""
    for name, content in vectors().items():
        (FOLDER / name).write_text(render(content))


def counting_kernel(hidden: int, channels: int, patch: int) -> np.ndarray:
    """A kernel that anyone can build: -8, -7, ..., 7, 8, -8, ... eighths."""
    count = hidden * channels * patch * patch
    eighths = (np.arange(count) % 17 - 8).astype(np.float32) / 8
    return eighths.reshape(hidden, channels, patch, patch)


def _matrix(seed: bytes, dimension: int) -> dict[str, object]:
    rows = [[float.hex(x) for x in row] for row in haar(seed, dimension).tolist()]
    return {"seed": seed.hex(), "dimension": dimension, "rows": rows}


def _digest(seed: bytes, dimension: int) -> dict[str, object]:
    numbers = haar(seed, dimension).astype("<f8").tobytes()
    digest = hashlib.sha256(numbers).hexdigest()
    return {"seed": seed.hex(), "dimension": dimension, "sha256": digest}


def _commitment(seed: bytes, blinding: bytes) -> dict[str, str]:
    value = commitment(seed, blinding).hex()
    return {"seed": seed.hex(), "blinding": blinding.hex(), "commitment": value}


def _tag(seed: bytes, version: int) -> dict[str, object]:
    tag = possession_tag(seed, key_id="vector", version=version, owner=OWNER).hex()
    named = {"seed": seed.hex(), "key_id": "vector", "version": version}
    return {**named, "owner": OWNER, "tag": tag}


def _embedding(
    seed: bytes, hidden: int, channels: int, patch: int
) -> dict[str, object]:
    key = derive_key(
        seed, key_id="vector", version=1, patch_size=patch, channels=channels
    )
    issued = transform_embedding(counting_kernel(hidden, channels, patch), key)
    shape = {"hidden": hidden, "channels": channels, "patch_size": patch}
    return {"seed": seed.hex(), **shape, "digest": embedding_digest(issued).hex()}


if __name__ == "__main__":
    main()
