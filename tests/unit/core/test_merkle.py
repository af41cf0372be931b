"""Every proof of every small tree, against a second way to compute its root."""

from collections.abc import Iterator, Sequence
from hashlib import sha256

import pytest

from core import merkle
from core.merkle import (
    ProofError,
    consistency_path,
    inclusion_path,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

LARGEST = 64
LEAVES = [leaf_hash(bytes([i])) for i in range(LARGEST)]
SIZES = range(1, LARGEST + 1)

# The leaves and roots that certificate-transparency implementations test with: those
# of google/certificate-transparency (python/ct/crypto) and transparency-dev/merkle.
CT_BODIES = [
    bytes.fromhex(body)
    for body in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# Hashes within that tree, by the leaves they are over, as those tests publish them.
CT_PARTS = {
    "0": "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "1": "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "4": "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "01": "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "23": "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "45": "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "67": "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "0123": "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4567": "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
}
# Their paths: leaf, size, and the parts; old size, new size, and the parts.
CT_INCLUSION = [
    (0, 1, ""),
    (0, 8, "1 23 4567"),
    (5, 8, "4 67 0123"),
    (2, 3, "01"),
    (1, 5, "0 23 4"),
]
CT_CONSISTENCY = [(1, 1, ""), (1, 8, "1 23 4567"), (6, 8, "45 67 0123"), (2, 5, "23 4")]


def published(parts: str) -> list[bytes]:
    return [bytes.fromhex(CT_PARTS[part]) for part in parts.split()]


def root_by_levels(leaves: Sequence[bytes]) -> bytes:
    """Pair neighbours level by level, an odd one going up alone: the other way."""
    level = list(leaves)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) % 2 else []
        level = [sha256(b"\x01" + a + b).digest() for a, b in pairs] + odd
    return level[0]


ROOTS = [merkle.EMPTY_ROOT, *(root_by_levels(LEAVES[:n]) for n in SIZES)]


def spoiled(path: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield the path with each hash changed, dropped or doubled, and with more."""
    for i, node in enumerate(path):
        yield [*path[:i], bytes([node[0] ^ 1]) + node[1:], *path[i + 1 :]]
        yield [*path[:i], *path[i + 1 :]]
        yield [*path[:i], node, *path[i:]]
    yield [*path, bytes(32)]
    yield [bytes(32), *path]


def check_inclusion(index: int, size: int, path: Sequence[bytes]) -> None:
    verify_inclusion(
        leaf=LEAVES[index], index=index, size=size, path=path, root_hash=ROOTS[size]
    )


def check_consistency(first: int, second: int, path: Sequence[bytes]) -> None:
    verify_consistency(
        first_size=first,
        second_size=second,
        first_root=ROOTS[first],
        second_root=ROOTS[second],
        path=path,
    )


@pytest.mark.parametrize("size", range(len(CT_ROOTS)))
def test_the_published_roots_come_out(size: int) -> None:
    leaves = [leaf_hash(body) for body in CT_BODIES[:size]]

    assert CT_ROOTS[size] == merkle.root(leaves).hex()


@pytest.mark.parametrize(("index", "size", "parts"), CT_INCLUSION)
def test_the_published_inclusion_paths_come_out_and_verify(
    index: int, size: int, parts: str
) -> None:
    leaves = [leaf_hash(body) for body in CT_BODIES[:size]]
    path = published(parts)

    assert path == inclusion_path(leaves, index)
    verify_inclusion(
        leaf=leaves[index],
        index=index,
        size=size,
        path=path,
        root_hash=bytes.fromhex(CT_ROOTS[size]),
    )


@pytest.mark.parametrize(("first", "second", "parts"), CT_CONSISTENCY)
def test_the_published_consistency_proofs_come_out_and_verify(
    first: int, second: int, parts: str
) -> None:
    path = published(parts)

    assert path == consistency_path(
        [leaf_hash(body) for body in CT_BODIES[:second]], first
    )
    verify_consistency(
        first_size=first,
        second_size=second,
        first_root=bytes.fromhex(CT_ROOTS[first]),
        second_root=bytes.fromhex(CT_ROOTS[second]),
        path=path,
    )


@pytest.mark.parametrize(
    ("index", "size", "parts", "root_of"),
    [
        (1, 8, "1 23 4567", 8),  # another leaf's place
        (0, 7, "1 23 4567", 7),  # another tree's size, and its root
        (0, 16, "1 23 4567", 8),
        (0, 8, "1 23 4567", 7),  # another tree's root
        (0, 8, "1 23 4567", 0),  # the empty tree's root
        (0, 8, "1 23", 8),
        (0, 8, "23 4567", 8),
        (0, 8, "1 23 4567 0", 8),
        (0, 8, "0 1 23 4567", 8),
        (0, 8, "", 8),
        (0, 8, "4567 23 1", 8),
        (0, 0, "", 0),
        (2, 1, "", 1),
        (0, 1, "0", 1),
    ],
)
def test_the_published_inclusion_paths_prove_nothing_else(
    index: int, size: int, parts: str, root_of: int
) -> None:
    """What those tests also try: place, size, root, and what is cut or added."""
    with pytest.raises(ProofError):
        verify_inclusion(
            leaf=leaf_hash(CT_BODIES[0]),
            index=index,
            size=size,
            path=published(parts),
            root_hash=bytes.fromhex(CT_ROOTS[root_of]),
        )


@pytest.mark.parametrize(
    ("first", "second", "parts"),
    [
        (0, 8, ""),
        (0, 8, "45 67 0123"),
        (5, 8, "45 67 0123"),  # another old size, and its root
        (7, 8, "45 67 0123"),
        (6, 7, "45 67 0123"),
        (8, 6, "45 67 0123"),
        (6, 8, ""),
        (6, 8, "45 67"),
        (6, 8, "67 0123"),
        (6, 8, "45 67 0123 0"),
        (6, 8, "0 45 67 0123"),
        (6, 8, "0123 67 45"),
        (8, 8, "45 67 0123"),
    ],
)
def test_the_published_consistency_proofs_prove_nothing_else(
    first: int, second: int, parts: str
) -> None:
    with pytest.raises(ProofError):
        verify_consistency(
            first_size=first,
            second_size=second,
            first_root=bytes.fromhex(CT_ROOTS[first]),
            second_root=bytes.fromhex(CT_ROOTS[second]),
            path=published(parts),
        )


@pytest.mark.parametrize("size", SIZES)
def test_the_definition_agrees_with_pairing_by_levels(size: int) -> None:
    assert ROOTS[size] == merkle.root(LEAVES[:size])


def test_a_leaf_cannot_pass_for_a_node() -> None:
    """Different prefixes: else an inner node could be shown as a record."""
    assert node_hash(LEAVES[0], LEAVES[1]) != leaf_hash(LEAVES[0] + LEAVES[1])


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_is_proved_and_only_where_it_is(size: int) -> None:
    for index in range(size):
        path = inclusion_path(LEAVES[:size], index)

        check_inclusion(index, size, path)
        for other in (i for i in range(size) if i != index):
            with pytest.raises(ProofError):
                check_inclusion(other, size, path)


@pytest.mark.parametrize("size", SIZES)
def test_a_spoiled_inclusion_path_is_refused(size: int) -> None:
    for index in range(size):
        for path in spoiled(inclusion_path(LEAVES[:size], index)):
            with pytest.raises(ProofError):
                check_inclusion(index, size, path)


@pytest.mark.parametrize("second", SIZES)
def test_every_growth_is_proved(second: int) -> None:
    for first in range(1, second + 1):
        check_consistency(
            first, second, consistency_path(LEAVES[:second], first_size=first)
        )


@pytest.mark.parametrize("second", SIZES)
def test_a_spoiled_consistency_proof_is_refused(second: int) -> None:
    for first in range(1, second + 1):
        for path in spoiled(consistency_path(LEAVES[:second], first)):
            with pytest.raises(ProofError):
                check_consistency(first, second, path)


@pytest.mark.parametrize("second", SIZES)
def test_a_rewritten_past_has_no_proof(second: int) -> None:
    """Change one old record: the new tree's own proof does not lead to the old root."""
    forked = [leaf_hash(b"forged"), *LEAVES[1:second]]
    for first in range(1, second):
        with pytest.raises(ProofError, match="both roots"):
            verify_consistency(
                first_size=first,
                second_size=second,
                first_root=ROOTS[first],
                second_root=root_by_levels(forked),
                path=consistency_path(forked, first),
            )


def test_equal_sizes_need_equal_roots_and_an_empty_proof() -> None:
    check_consistency(5, 5, [])
    with pytest.raises(ProofError, match="same tree"):
        check_consistency(5, 5, [ROOTS[5]])
    with pytest.raises(ProofError, match="same tree"):
        verify_consistency(
            first_size=5,
            second_size=5,
            first_root=ROOTS[5],
            second_root=ROOTS[4],
            path=[],
        )


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (6, 5), (-1, 5)])
def test_sizes_that_prove_nothing_are_refused(first: int, second: int) -> None:
    with pytest.raises(ProofError, match="no proof from"):
        verify_consistency(
            first_size=first,
            second_size=second,
            first_root=merkle.EMPTY_ROOT,
            second_root=ROOTS[5],
            path=[],
        )


def test_growth_without_a_proof_is_refused() -> None:
    with pytest.raises(ProofError, match="empty"):
        check_consistency(4, 8, [])


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (6, 5)])
def test_a_leaf_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(ProofError, match="no leaf"):
        verify_inclusion(
            leaf=LEAVES[0], index=index, size=size, path=[], root_hash=ROOTS[5]
        )


def test_the_root_is_no_leaf() -> None:
    """An empty path leads from a root to itself, and yet proves no record."""
    with pytest.raises(ProofError, match="does not lead"):
        verify_inclusion(leaf=ROOTS[2], index=0, size=2, path=[], root_hash=ROOTS[2])


def test_a_proof_that_ends_below_the_root_is_refused() -> None:
    """It leads to both roots, but the second is that of 2 leaves and not of 4."""
    with pytest.raises(ProofError, match="too short"):
        verify_consistency(
            first_size=1,
            second_size=4,
            first_root=ROOTS[1],
            second_root=ROOTS[2],
            path=[LEAVES[1]],
        )


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_every_hash_has_32_bytes(length: int) -> None:
    """A longer node could hide a second preimage; a shorter one is no hash."""
    wrong = bytes(length)
    for leaf, path, root_hash in (
        (wrong, [LEAVES[1]], ROOTS[2]),
        (LEAVES[0], [wrong], ROOTS[2]),
        (LEAVES[0], [LEAVES[1]], wrong),
    ):
        with pytest.raises(ProofError, match="32 bytes"):
            verify_inclusion(leaf=leaf, index=0, size=2, path=path, root_hash=root_hash)
    with pytest.raises(ProofError, match="32 bytes"):
        check_consistency(1, 2, [wrong])


def test_a_leaf_glued_to_its_sibling_is_refused() -> None:
    """Without the length check, these 31 + 33 bytes hash like the two real ones."""
    both = LEAVES[0] + LEAVES[1]

    assert ROOTS[2] == node_hash(both[:31], both[31:])
    with pytest.raises(ProofError, match="32 bytes"):
        verify_inclusion(
            leaf=both[:31], index=0, size=2, path=[both[31:]], root_hash=ROOTS[2]
        )


@pytest.mark.parametrize(("size", "index"), [(0, 0), (3, 3), (3, -1)])
def test_no_path_for_a_leaf_that_is_not_there(size: int, index: int) -> None:
    with pytest.raises(ProofError):
        inclusion_path(LEAVES[:size], index)


@pytest.mark.parametrize("first", [0, 4, -1])
def test_no_proof_from_a_tree_that_was_not(first: int) -> None:
    with pytest.raises(ProofError):
        consistency_path(LEAVES[:3], first)
