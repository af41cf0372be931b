"""Teach a model to read encrypted images: fold a key into its patch embedding."""

import hashlib
from typing import Final

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32

from core.errors import DtypeError, KeyMismatchError, NonFiniteError, ShapeError
from core.keys import BlockKey

Kernel = Float32[np.ndarray, "hidden c p p"]
Transformed = Float32[np.ndarray, "hidden d"]

_DIGEST_LABEL: Final = b"keymixer.v1/embedding\x00"


def transform_embedding(weight: Kernel, key: BlockKey) -> Transformed:
    """Return `W' = W A^T`, which reads `A x` as `W` reads `x`: `W A^T A x = W x`.

    `A` is orthogonal (Aso, Chuman & Kiya, arXiv 2301.03843). The bias stays as it is.
    Computed in float64 as a sum of D outer products, one after the other, and rounded
    once: the digest of the result is the same on every machine, as BLAS's would not be.
    """
    _require_kernel(weight, key)
    rows = rearrange(weight, "hidden c p q -> hidden (c p q)").astype(np.float64)
    total = np.zeros_like(rows)
    for k in range(key.dimension):
        total += rows[:, k, None] * key.matrix[:, k]
    return total.astype(np.float32)


def flatten_embedding(weight: Kernel) -> Transformed:
    """Return the plain kernel as rows, to be used like a transformed one."""
    return rearrange(weight, "hidden c p q -> hidden (c p q)")


def embed(
    blocks: Float[np.ndarray, "n rows columns d"],
    weight: Float[np.ndarray, "hidden d"],
    bias: Float[np.ndarray, " hidden"],
) -> Float[np.ndarray, "n rows columns hidden"]:
    """Turn blocks into tokens: `W x + b`, the patch embedding as a matrix product."""
    if blocks.shape[-1] != weight.shape[-1]:
        raise KeyMismatchError(
            f"blocks of {blocks.shape[-1]}, a model for {weight.shape[-1]}"
        )
    if bias.shape != weight.shape[:1]:
        raise ShapeError(f"expected a bias of {weight.shape[0]}, got {bias.shape}")
    return blocks @ weight.T + bias


def embedding_digest(transformed: Transformed) -> bytes:
    """SHA-256 over a label, the shape and the little-endian float32 numbers."""
    if transformed.dtype != np.float32:
        raise DtypeError(f"expected float32, got {transformed.dtype}")
    sizes = (transformed.ndim, *transformed.shape)
    prefix = b"".join(size.to_bytes(4, "big") for size in sizes)
    numbers = transformed.astype("<f4", copy=False).tobytes()
    return hashlib.sha256(_DIGEST_LABEL + prefix + numbers).digest()


def _require_kernel(weight: Kernel, key: BlockKey) -> None:
    if weight.dtype != np.float32:
        raise DtypeError(f"expected float32, got {weight.dtype}")
    if weight.ndim != len("hcpp"):
        raise ShapeError(f"expected (hidden, c, p, p), got {weight.shape}")
    expected = (key.channels, key.patch_size, key.patch_size)
    if weight.shape[1:] != expected:
        raise KeyMismatchError(
            f"a key for blocks of {expected}, a model of {weight.shape[1:]}"
        )
    if not np.isfinite(weight).all():
        raise NonFiniteError("the embedding holds NaN or infinity")
