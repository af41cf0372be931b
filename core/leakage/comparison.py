"""The same attacks on the conventional schemes, for the table that compares them."""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from core.leakage import known_plaintext, scrambling_pairs, signed_permutation
from core.leakage.material import Finding, Material, finding
from core.leakage.moments import BlockPrior, flat
from core.leakage.schemes import (
    block_scrambling,
    learnable,
    pixel_shuffling,
    random_orthogonal,
)
from core.leakage.schemes.block_key import BlockKey

Draw = Callable[[int, int, np.random.Generator], BlockKey]

SCHEMES: Final[tuple[Draw, ...]] = (
    pixel_shuffling.draw_shuffled,
    pixel_shuffling.draw_negated,
    learnable.draw,
)
KNOWN_BLOCKS: Final = (2, 12)


def known_blocks(material: Material) -> Iterator[Finding]:
    """Known plaintext, with so many blocks, on ours and on every scheme like it."""
    side, channels = material.coordinates.patch_size, material.coordinates.channels
    for place, draw in enumerate(SCHEMES):
        key = draw(side, channels, material.generator(8, place))
        for count in KNOWN_BLOCKS:
            yield _with_pairs(material, key, count, rounded=True)
    key = random_orthogonal.draw(material.coordinates, material.generator(8, 9))
    for count in KNOWN_BLOCKS:
        yield _with_pairs(material, key, count, rounded=False)


def scrambled(material: Material) -> Iterator[Finding]:
    """Block scrambling, with one known picture."""
    side, channels = material.coordinates.patch_size, material.coordinates.channels
    height, width = material.own.shape[2:]
    places = (height // side) * (width // side)
    key = block_scrambling.draw(side, channels, places, material.generator(8, 8))
    hidden = key.encrypt(material.own)
    plain = block_scrambling.centred_blocks(material.own[:1], side)
    guess = scrambling_pairs.recover_key(plain, hidden[:1], side, channels)
    yield finding(
        "known plaintext",
        block_scrambling.NAME,
        "1 known picture",
        "a pair of pictures under one key for all",
        original=material.own[1:],
        seen=block_scrambling.as_pictures(hidden[1:], side, channels),
        recovered=guess.decrypt(hidden[1:]),
    )


def _with_pairs(
    material: Material, key: BlockKey, count: int, *, rounded: bool
) -> Finding:
    blocks, hidden = key.coordinates.blocks(material.own), key.encrypt(material.own)
    rng = material.generator(8, count)
    chosen = rng.choice(len(flat(blocks)), count, replace=False)
    plain, seen = flat(blocks)[chosen], flat(hidden)[chosen]
    if rounded:
        guess = signed_permutation.from_pairs(plain, seen)
        recovered = hidden @ guess
    else:
        prior = BlockPrior.of(key.coordinates.blocks(material.public))
        directions = known_plaintext.seen_directions(plain, seen)
        recovered = known_plaintext.recover(hidden, directions, prior)
    return finding(
        "known plaintext",
        key.scheme,
        f"{count} known blocks of one key",
        "pairs of blocks" if rounded else "pairs of blocks, and public pictures",
        original=material.own,
        seen=key.coordinates.pictures(hidden),
        recovered=key.coordinates.pictures(recovered),
    )


ATTACKS: Final = {"schemes, known plaintext": known_blocks, "scrambling": scrambled}
