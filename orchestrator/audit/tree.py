"""The RFC 9162 tree over a log of any size, from its stored complete subtrees.

Node (level, position) is the hash over the 2**level leaves from position * 2**level on;
level 0 is the leaf hashes. A node never changes once its leaves are there, so an append
writes the few nodes it completes, and every root and proof reads O(log n) of them. The
slow definition, over all leaf hashes, is `core.merkle`.
"""

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple, Self

from core.merkle import EMPTY_ROOT, node_hash
from orchestrator.errors import NotInLog

ReadNode = Callable[[int, int], bytes]


class Node(NamedTuple):
    """The hash of one complete subtree, 32 bytes."""

    level: int
    position: int
    hash: bytes


class Frontier:
    """The complete subtrees that make up a log: all that an append needs to know.

    There is at most one a level, as in a binary counter, so that a log of n records
    has at most log2(n) + 1 of them. (Also known as a compact range.)
    """

    def __init__(self, size: int = 0, peaks: tuple[bytes, ...] = ()) -> None:
        self.size = size
        self._peaks = list(peaks)

    @classmethod
    def read(cls, size: int, read: ReadNode) -> Self:
        """Read the frontier of the first `size` records from their stored nodes."""
        levels = [level for level in range(size.bit_length()) if size >> level & 1]
        peaks = [read(level, (size >> level) - 1) for level in reversed(levels)]
        return cls(size, tuple(peaks))

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """Their hashes, the largest subtree first."""
        return tuple(self._peaks)

    def append(self, leaf_hash: bytes) -> list[Node]:
        """Add a leaf; give the nodes that it completes above it, lowest first."""
        nodes: list[Node] = []
        level, position, digest = 0, self.size, leaf_hash
        while position & 1:
            digest = node_hash(self._peaks.pop(), digest)
            level, position = level + 1, position >> 1
            nodes.append(Node(level, position, digest))
        self._peaks.append(digest)
        self.size += 1
        return nodes

    def root(self) -> bytes:
        """Return the root: the small subtrees are folded into the large ones."""
        if not self._peaks:
            return EMPTY_ROOT
        return reduce(lambda small, large: node_hash(large, small), self._peaks[::-1])


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
