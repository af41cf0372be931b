"""The Merkle tree of the audit log: RFC 9162, section 2.1, as pure functions.

A tree is the sequence of its leaf hashes, 32 bytes each. Verifying a proof needs only
hashes and sizes, and follows the RFC's algorithms line by line.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from core.errors import Refused

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


class ProofError(Refused):
    """A Merkle proof does not hold."""

    hint = "keep both checkpoints and tell the operator: the log may have been changed"


def leaf_hash(body: bytes) -> bytes:
    """Hash a record: `SHA-256(0x00 || body)`."""
    return sha256(b"\x00" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees: `SHA-256(0x01 || left || right)`."""
    return sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes, by the definition (section 2.1.1)."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return node_hash(root(leaves[:k]), root(leaves[k:]))


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the path from leaf `index` to the root (section 2.1.3.1), lowest first."""
    if not 0 <= index < len(leaves):
        raise ProofError(f"no leaf {index} in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion_path(leaves[:k], index), root(leaves[k:])]
    return [*inclusion_path(leaves[k:], index - k), root(leaves[:k])]


def consistency_path(leaves: Sequence[bytes], first_size: int) -> list[bytes]:
    """Prove that this tree extends its first `first_size` leaves (section 2.1.4.1)."""
    if not 0 < first_size <= len(leaves):
        raise ProofError(f"no tree of {first_size} leaves within one of {len(leaves)}")
    return _subproof(leaves, first_size, known=True)


def verify_inclusion(
    *, leaf: bytes, index: int, size: int, path: Sequence[bytes], root_hash: bytes
) -> None:
    """Return if `leaf` is at `index` of the tree of `size` leaves (section 2.1.3.2).

    Raises:
        ProofError: if the path does not lead to `root_hash`, or a part is malformed.
    """
    _check_hashes(leaf, root_hash, *path)
    if not 0 <= index < size:
        raise ProofError(f"no leaf {index} in a tree of {size}")
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            raise ProofError("the inclusion path is too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            fn, sn = _up_to_left_child(fn, sn)
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or r != root_hash:
        raise ProofError("the inclusion path does not lead to the root")


def verify_consistency(
    *,
    first_size: int,
    second_size: int,
    first_root: bytes,
    second_root: bytes,
    path: Sequence[bytes],
) -> None:
    """Return if the second tree extends the first one (section 2.1.4.2).

    Raises:
        ProofError: if it does not, if the first tree is empty (every tree extends it,
            so there is nothing to prove), or if a part is malformed.
    """
    _check_hashes(first_root, second_root, *path)
    if not 0 < first_size <= second_size:
        raise ProofError(f"no proof from {first_size} to {second_size} leaves")
    if first_size == second_size:
        if path or first_root != second_root:
            raise ProofError("two trees of one size must be the same tree")
        return
    if not path:
        raise ProofError("the consistency proof is empty")
    if first_size & (first_size - 1) == 0:  # a power of two: a whole subtree
        path = [first_root, *path]
    if _fold_both(path, first_size - 1, second_size - 1) != (first_root, second_root):
        raise ProofError("the consistency proof does not lead to both roots")


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _subproof(leaves: Sequence[bytes], m: int, *, known: bool) -> list[bytes]:
    """Return SUBPROOF(m, D[n], b) of section 2.1.4.1; `known` is the RFC's b."""
    n = len(leaves)
    if m == n:
        return [] if known else [root(leaves)]
    k = _split(n)
    if m <= k:
        return [*_subproof(leaves[:k], m, known=known), root(leaves[k:])]
    return [*_subproof(leaves[k:], m - k, known=False), root(leaves[:k])]


def _fold_both(path: Sequence[bytes], fn: int, sn: int) -> tuple[bytes, bytes]:
    """Return the roots of the old and the new tree that a consistency path leads to."""
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            raise ProofError("the consistency proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            fn, sn = _up_to_left_child(fn, sn)
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise ProofError("the consistency proof is too short")
    return fr, sr


def _up_to_left_child(fn: int, sn: int) -> tuple[int, int]:
    """Go up while a node has no sibling: step (b) of both verification algorithms."""
    while fn and not fn & 1:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _check_hashes(*hashes: bytes) -> None:
    if any(len(h) != HASH_BYTES for h in hashes):
        raise ProofError(f"every hash of a proof has {HASH_BYTES} bytes")
