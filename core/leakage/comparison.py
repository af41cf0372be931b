"""The same attacks on the conventional schemes, for the table that compares them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from core.leakage import jigsaw, known_plaintext, scrambling_pairs, signed_permutation
from core.leakage.exchanges import Exchanges
from core.leakage.fidelity import Pictures
from core.leakage.lifelike import Lifelike
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
# Keys of each scheme, all pictures under each.
_KEYS: Final = 1
_THOROUGH_KEYS: Final = 5
# Pictures seen under each key, how many keys, and starts for each. A start costs a
# tenth of a second where a block has 48 numbers, and eight times that where it has 96.
_ALONE: Final = ((1, 4, 12), (3, 2, 12), (10, 2, 12))
_THOROUGH_ALONE: Final = ((1, 20, 24), (3, 7, 24), (10, 5, 24))
_SLOWER: Final = 4
_JIGSAW_STARTS: Final = 50


def known_blocks(material: Material) -> Iterator[Finding]:
    """Known plaintext, with so many blocks, on ours and on every scheme like it."""
    side, channels = material.coordinates.patch_size, material.coordinates.channels
    for place, draw in enumerate(SCHEMES):
        rng = material.generator(8, place)
        keys = [draw(side, channels, rng) for _ in range(_keys(material))]
        for count in KNOWN_BLOCKS:
            yield _with_pairs(material, keys, count, rounded=True)
    rng = material.generator(8, 9)
    keys = [
        random_orthogonal.draw(material.coordinates, rng)
        for _ in range(_keys(material))
    ]
    for count in KNOWN_BLOCKS:
        yield _with_pairs(material, keys, count, rounded=False)


def scrambled(material: Material) -> Iterator[Finding]:
    """Block scrambling, with one known picture."""
    side, channels = material.coordinates.patch_size, material.coordinates.channels
    rng = material.generator(8, 8)
    seen, recovered = [], []
    for _ in range(_keys(material)):
        key = block_scrambling.draw(side, channels, _places(material), rng)
        hidden = key.encrypt(material.own)
        plain = block_scrambling.centred_blocks(material.own[:1], side)
        guess = scrambling_pairs.recover_key(plain, hidden[:1], side, channels)
        seen.append(block_scrambling.as_pictures(hidden[1:], side, channels))
        recovered.append(guess.decrypt(hidden[1:]))
    yield finding(
        "known plaintext",
        block_scrambling.NAME,
        "1 known picture",
        "a pair of pictures under one key for all",
        original=np.concatenate([material.own[1:]] * len(seen)),
        seen=np.concatenate(seen),
        recovered=np.concatenate(recovered),
    )


def jigsawed(material: Material) -> Iterator[Finding]:
    """Block scrambling, ciphertext only; all pictures under each key."""
    side, channels = material.coordinates.patch_size, material.coordinates.channels
    rng = material.generator(11)
    public = block_scrambling.centred_blocks(material.public, side)
    attacker = jigsaw.Jigsaw.of(public, side, channels)
    lifelike = Lifelike(material.public, jigsaw.recolourings(channels))
    seen, recovered = [], []
    for _ in range(_keys(material)):
        key = block_scrambling.draw(side, channels, _places(material), rng)
        hidden = key.encrypt(material.own)
        guess = attacker.attack(hidden, _JIGSAW_STARTS, rng, lifelike)
        seen.append(block_scrambling.as_pictures(hidden, side, channels))
        recovered.append(_upright(material.own, guess.decrypt(hidden)))
    yield finding(
        "jigsaw",
        block_scrambling.NAME,
        f"{len(material.own)} seen under each of {len(seen)} keys",
        "public pictures; which of eight ways is up, by eye",
        original=np.concatenate([material.own] * len(seen)),
        seen=np.concatenate(seen),
        recovered=np.concatenate(recovered),
    )


def _upright(original: Pictures, found: Pictures) -> Pictures:
    """All of them turned and mirrored the one way that an onlooker would choose."""
    turned = [np.rot90(found, turns, axes=(2, 3)) for turns in range(4)]
    ways = [way for each in turned for way in (each, each[..., ::-1])]
    return _closest(original, [way for way in ways if way.shape == original.shape])


def _closest(original: Pictures, versions: Sequence[Pictures]) -> Pictures:
    """What an onlooker chooses, who sees at once which version is a picture."""
    return min(versions, key=lambda each: float(((each - original) ** 2).mean()))


def encrypted_alone(material: Material) -> Iterator[Finding]:
    """Ciphertext only, on the schemes whose keys only move numbers."""
    side, channels = material.coordinates.patch_size, material.coordinates.channels
    for place, draw in enumerate(SCHEMES):
        sample = draw(side, channels, material.generator(10))
        attacker = Exchanges(sample.coordinates.blocks(material.public))
        plan = _THOROUGH_ALONE if material.thorough else _ALONE
        for count, keys, starts in plan:
            rng = material.generator(10, place, count)
            few = starts if draw is not learnable.draw else max(starts // _SLOWER, 1)
            pairs = [
                (material.drawn(count, rng), draw(side, channels, rng))
                for _ in range(keys)
            ]
            yield _alone(pairs, attacker, few, rng)


def _alone(
    pairs: Sequence[tuple[Pictures, BlockKey]],
    attacker: Exchanges,
    starts: int,
    rng: np.random.Generator,
) -> Finding:
    """Attack each of several keys by what was encrypted under it."""
    seen, recovered = [], []
    for pictures, key in pairs:
        signed = key.scheme != pixel_shuffling.SHUFFLED
        hidden, to_pictures = key.encrypt(pictures), key.coordinates.pictures
        found = attacker.attack(hidden, starts, rng, signed=signed).matrix
        versions = [to_pictures(hidden @ (sign * found).T) for sign in (1, -1)]
        recovered.append(_closest(pictures, versions if signed else versions[:1]))
        seen.append(to_pictures(hidden))
    return finding(
        "ciphertext only",
        pairs[0][1].scheme,
        f"{len(pairs[0][0])} seen under each of {len(pairs)} keys",
        "public pictures; which is the negative, by eye",
        original=np.concatenate([pictures for pictures, _ in pairs]),
        seen=np.concatenate(seen),
        recovered=np.concatenate(recovered),
    )


def _with_pairs(
    material: Material, keys: Sequence[BlockKey], count: int, *, rounded: bool
) -> Finding:
    rng = material.generator(8, count)
    found = [_opened(material, key, count, rng, rounded=rounded) for key in keys]
    seen, recovered = (np.concatenate(each) for each in zip(*found, strict=True))
    return finding(
        "known plaintext",
        keys[0].scheme,
        f"{count} known blocks of one key",
        "pairs of blocks" if rounded else "pairs of blocks, and public pictures",
        original=np.concatenate([material.own] * len(keys)),
        seen=seen,
        recovered=recovered,
    )


def _opened(
    material: Material,
    key: BlockKey,
    count: int,
    rng: np.random.Generator,
    *,
    rounded: bool,
) -> tuple[Pictures, Pictures]:
    """What is seen under one key, and what so many known blocks make of it."""
    blocks, hidden = key.coordinates.blocks(material.own), key.encrypt(material.own)
    chosen = rng.choice(len(flat(blocks)), count, replace=False)
    plain, seen = flat(blocks)[chosen], flat(hidden)[chosen]
    if rounded:
        recovered = hidden @ signed_permutation.from_pairs(plain, seen)
    else:
        prior = BlockPrior.of(key.coordinates.blocks(material.public))
        directions = known_plaintext.seen_directions(plain, seen)
        recovered = known_plaintext.recover(hidden, directions, prior)
    return key.coordinates.pictures(hidden), key.coordinates.pictures(recovered)


def _keys(material: Material) -> int:
    return _THOROUGH_KEYS if material.thorough else _KEYS


def _places(material: Material) -> int:
    height, width = material.own.shape[2:]
    side = material.coordinates.patch_size
    return (height // side) * (width // side)


ATTACKS: Final = {
    "schemes, known plaintext": known_blocks,
    "scrambling": scrambled,
    "schemes, ciphertext only": encrypted_alone,
    "jigsaw": jigsawed,
}
