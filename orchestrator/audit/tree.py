"""The RFC 9162 tree over a log of any size, from its stored complete subtrees.

Node (level, position) is the hash over the 2**level leaves from position * 2**level on;
level 0 is the leaf hashes. A node never changes once its leaves are there, so an append
writes the few nodes it completes, and every root and proof reads O(log n) of them. The
slow definition, over all leaf hashes, is `core.merkle`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from core.merkle import EMPTY_ROOT, node_hash
from orchestrator.errors import NotInLog

ReadNode = Callable[[int, int], bytes]


class Node(NamedTuple):
    """The hash of one complete subtree, 32 bytes."""

    level: int
    position: int
    hash: bytes


def completed_by(index: int, leaf_hash: bytes, read: ReadNode) -> Iterator[Node]:
    """Yield the nodes that the leaf at `index` completes above it, lowest first."""
    level, position, digest = 0, index, leaf_hash
    while position & 1:
        digest = node_hash(read(level, position - 1), digest)
        level, position = level + 1, position >> 1
        yield Node(level, position, digest)


def root(size: int, read: ReadNode) -> bytes:
    """Return the root of the tree over the first `size` leaves (section 2.1.1)."""
    return _subtree(0, size, read) if size else EMPTY_ROOT


def inclusion_path(index: int, size: int, read: ReadNode) -> list[bytes]:
    """Return PATH(index, D[size]), section 2.1.3.1: the leaf's sibling first."""
    if not 0 <= index < size:
        raise NotInLog(f"no record {index} in a log of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_subtree(middle, end, read))
            end = middle
        else:
            path.append(_subtree(start, middle, read))
            start = middle
    return path[::-1]


def consistency_path(first: int, second: int, read: ReadNode) -> list[bytes]:
    """Return PROOF(first, D[second]), section 2.1.4.1."""
    if not 0 < first <= second:
        raise NotInLog(f"no log of {first} records within one of {second}")
    path: list[bytes] = []
    start, end = 0, second
    while end != first:
        middle = start + _split(end - start)
        if first <= middle:
            path.append(_subtree(middle, end, read))
            end = middle
        else:
            path.append(_subtree(start, middle, read))
            start = middle
    # The verifier knows the whole first tree: it is sent only if it is a part of one.
    if start:
        path.append(_subtree(start, end, read))
    return path[::-1]


def _subtree(start: int, end: int, read: ReadNode) -> bytes:
    """Return the hash over the leaves `start` to `end`; a left part is complete."""
    size = end - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return read(level, start >> level)
    middle = start + _split(size)
    return node_hash(_subtree(start, middle, read), _subtree(middle, end, read))


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)
