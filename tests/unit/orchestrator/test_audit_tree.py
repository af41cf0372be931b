"""The tree over stored nodes against the RFC's definition over all leaves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import merkle
from orchestrator.audit import tree
from orchestrator.errors import NotInLog

SIZES = 130
LEAVES = [merkle.leaf_hash(f"record {number}".encode()) for number in range(SIZES)]


class MemoryNodes:
    """What the database keeps: complete subtrees by level and position."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.stored: dict[tuple[int, int], bytes] = {}
        self.reads = 0
        frontier = tree.Frontier()
        for index, leaf in enumerate(leaves):
            self.stored[0, index] = leaf
            for node in frontier.append(leaf):
                assert (node.level, node.position) not in self.stored
                self.stored[node.level, node.position] = node.hash

    def read(self, level: int, position: int) -> bytes:
        self.reads += 1
        return self.stored[level, position]


NODES = MemoryNodes(LEAVES)


@pytest.mark.parametrize("size", range(SIZES + 1))
def test_the_root_of_every_size_is_the_slow_one(size: int) -> None:
    assert merkle.root(LEAVES[:size]) == tree.root(size, NODES.read)


def test_every_node_is_the_slow_root_of_its_leaves() -> None:
    for (level, position), digest in NODES.stored.items():
        first = position << level
        assert digest == merkle.root(LEAVES[first : first + (1 << level)])


def test_there_are_as_many_nodes_as_complete_subtrees() -> None:
    assert len(NODES.stored) == sum(SIZES >> level for level in range(8))


@pytest.mark.parametrize("size", range(SIZES + 1))
def test_a_frontier_that_was_read_is_the_one_that_grew(size: int) -> None:
    grown = tree.Frontier()
    for leaf in LEAVES[:size]:
        grown.append(leaf)

    read = tree.Frontier.read(size, NODES.read)

    assert (read.size, read.peaks) == (grown.size, grown.peaks)
    assert read.root() == merkle.root(LEAVES[:size])


@given(st.data())
def test_an_inclusion_path_is_the_slow_one(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, SIZES))
    index = data.draw(st.integers(0, size - 1))

    expected = merkle.inclusion_path(LEAVES[:size], index)
    assert expected == tree.inclusion_path(index, size, NODES.read)


@given(st.data())
def test_a_consistency_path_is_the_slow_one(data: st.DataObject) -> None:
    second = data.draw(st.integers(1, SIZES))
    first = data.draw(st.integers(1, second))

    expected = merkle.consistency_path(LEAVES[:second], first)
    assert expected == tree.consistency_path(first, second, NODES.read)


def test_a_root_and_a_proof_read_few_nodes() -> None:
    """O(log n): a log of a million records answers like one of a hundred."""
    size = 1_000_000
    reads: list[tuple[int, int]] = []

    def read(level: int, position: int) -> bytes:
        reads.append((level, position))
        return bytes(32)

    tree.root(size, read)
    assert len(reads) == size.bit_count()
    reads.clear()
    tree.inclusion_path(777_777, size, read)
    assert len(reads) <= 2 * size.bit_length()
    reads.clear()
    tree.consistency_path(654_321, size, read)
    assert len(reads) <= 4 * size.bit_length()


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 1), (1, 1), (5, 3)])
def test_no_path_for_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(NotInLog):
        tree.inclusion_path(index, size, NODES.read)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (2, 1), (-1, 1)])
def test_no_proof_from_an_empty_or_a_larger_tree(first: int, second: int) -> None:
    with pytest.raises(NotInLog):
        tree.consistency_path(first, second, NODES.read)
