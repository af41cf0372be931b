"""The attacks that `keymixer leakage` runs on our transform, weakest means first."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from core.leakage import (
    equal_blocks,
    known_plaintext,
    linkage,
    norm_map,
    public_embedding,
    two_keys,
)
from core.leakage.colour_signs import Colours
from core.leakage.fidelity import Pictures, fidelity
from core.leakage.material import Finding, Material, Trace, finding
from core.leakage.moments import BlockPrior, flat
from core.leakage.schemes import random_orthogonal as ours
from core.leakage.schemes.block_key import BlockKey, Pixels
from core.leakage.second_order import Public
from core.leakage.sent_pixels import SentPixels, lift_of, sent_blocks, shown
from core.leakage.subspace import kept_axes

Found = Finding | Trace
Attack = Callable[[Material], Iterator[Found]]

# Known blocks; then D of them, which is exact.
_KNOWN: Final = (5, 12)
# Pictures seen under each key, how many keys, and starts for each.
_SEEN: Final = ((1, 6, 4), (10, 2, 2))
_THOROUGH: Final = ((1, 20, 6), (3, 7, 4), (10, 5, 3))
_FINE_TUNED: Final = 0.1


def thumbnail(material: Material) -> Iterator[Finding]:
    """The norm map, and a constant picture to compare it with."""
    _, channels, height, width = material.own.shape
    own, blocks = material.own, _key(material, 0).encrypt(material.own)
    seen = _looks(material, blocks)
    maps = norm_map.norm_map(blocks)
    light = _is_light(material.coordinates)
    grey = norm_map.enlarged(_fitted(material, maps), height, width, channels)
    flat_colour = material.public.mean(axis=(0, 2, 3))[None, :, None, None]
    yield finding(
        "constant picture",
        ours.NAME,
        "nothing seen; the mean colour",
        "public pictures",
        original=own,
        seen=seen,
        recovered=np.broadcast_to(flat_colour, own.shape),
    )
    yield finding(
        "norm map",
        ours.NAME,
        "brightness" if light else "distance from the mean",
        "one picture; no key, no model",
        original=own,
        seen=seen,
        recovered=grey,
    )


def known_blocks(material: Material) -> Iterator[Finding]:
    """Known plaintext: a few blocks of one picture, then D of several."""
    key, rng = _key(material, 1), material.generator(1)
    coordinates = material.coordinates
    plain = flat(coordinates.blocks(material.own))
    hidden = key.encrypt(material.own)
    prior = BlockPrior.of(coordinates.blocks(material.public))
    for count in (*_KNOWN, coordinates.dimension):
        chosen = rng.choice(len(plain), min(count, len(plain)), replace=False)
        seen = known_plaintext.seen_directions(plain[chosen], flat(hidden)[chosen])
        yield finding(
            "known plaintext",
            ours.NAME,
            f"{count} known blocks of one key",
            "pairs of blocks, and public pictures",
            original=material.own,
            seen=_looks(material, hidden),
            recovered=coordinates.pictures(
                known_plaintext.recover(hidden, seen, prior)
            ),
        )


def ciphertext_only(material: Material) -> Iterator[Finding]:
    """Second moments of neighbouring blocks, for one picture a key and for ten."""
    coordinates = material.coordinates
    blocks = sent_blocks(coordinates, material.public, material.generator(2, 100))
    attacker = Public(blocks, kept_axes(blocks))
    colours = Colours(material.public, lift_of(coordinates))
    plan = _THOROUGH if material.thorough else _SEEN
    for place, (count, keys, starts) in enumerate(plan):
        rng = material.generator(2, place)
        groups = [material.drawn(count, rng) for _ in range(keys)]
        hidden = [ours.draw(coordinates, rng).encrypt(group) for group in groups]
        guesses = attacker.attack(hidden, starts, rng)
        recovered = [
            _decrypted(material, colours, guess.matrix, pair)
            for guess, *pair in zip(guesses, groups, hidden, strict=True)
        ]
        eye = "; which of eight colourings, by eye" if material.shield else ""
        yield finding(
            "ciphertext only",
            ours.NAME,
            f"{count} seen under each of {keys} keys",
            f"public pictures; no key, no model, no plaintext{eye}",
            original=np.concatenate(groups),
            seen=_looks(material, np.concatenate(hidden)),
            recovered=np.concatenate(recovered),
        )


def _decrypted(
    material: Material, colours: Colours, matrix: np.ndarray, pair: Sequence[np.ndarray]
) -> Pictures:
    """Of the colours that a guess leaves open, those that occur most often.

    What a shield leaves has none to count: there the closest to the original is taken,
    as whoever looks would. `pair` are pictures, and what they became.
    """
    (original, hidden), to_pictures = pair, material.coordinates.pictures
    if material.shield is None:
        return to_pictures(hidden @ colours.choose(matrix, hidden, to_pictures).T)
    versions = [to_pictures(hidden @ each.T) for each in colours.mirrored(matrix)]
    return max(versions, key=lambda each: fidelity(original, each).ssim)


def gallery(material: Material) -> Iterator[Found]:
    """A picture that was public finds its own ciphertext, which opens all others."""
    key, coordinates = _key(material, 3), material.coordinates
    hidden = key.encrypt(material.own)
    candidates = np.concatenate([material.public, material.own[:1]])
    known = coordinates.blocks(candidates)
    # Norms are the same under every key; with a shield's noise they are longer.
    norms = linkage.features(_key(material, 8).encrypt(candidates))
    matched = linkage.match(linkage.features(hidden[:1]), norms)[0]
    pair = flat(known[matched][None]), flat(hidden[:1])
    prior = BlockPrior.of(coordinates.blocks(material.public))
    seen = known_plaintext.seen_directions(*pair)
    yield finding(
        "gallery match, then known plaintext",
        ours.NAME,
        f"one of the pictures is among {len(candidates)} the attacker has",
        "that picture among the attacker's own",
        original=material.own[1:],
        seen=_looks(material, hidden[1:]),
        recovered=coordinates.pictures(
            known_plaintext.recover(hidden[1:], seen, prior)
        ),
    )


def traces(material: Material) -> Iterator[Trace]:
    """What shows with no picture recovered."""
    first, second = _key(material, 4), _key(material, 5)
    blocks, again = first.encrypt(material.own), second.encrypt(material.own)
    right = np.arange(len(material.own))
    for kept in ("norms", "distances"):
        found = linkage.match(
            linkage.features(again, kept), linkage.features(blocks, kept)
        )
        yield Trace(
            "linkage",
            ours.NAME,
            f"sent again under a fresh key, found by {kept}",
            "transformed pictures only",
            float((found == right).mean()),
        )
    yield Trace(
        "equal blocks",
        ours.NAME,
        "mean share of blocks that equal another of the picture",
        "one transformed picture",
        float(equal_blocks.equal_share(blocks).mean()),
    )


def embeddings(material: Material) -> Iterator[Finding]:
    """A public or fine-tuned embedding, and two keys of which one leaked."""
    key, other = _key(material, 6), _key(material, 7)
    plain = material.embedding.astype(np.float64)
    noise = material.generator(6).standard_normal(plain.shape) * plain.std()
    issued = plain @ key.matrix.T
    cases = (
        (
            "public embedding",
            "the model's own",
            plain,
            "the issued embedding, public W",
        ),
        (
            "public embedding",
            f"fine-tuned since: changed by {_FINE_TUNED:.0%} at random",
            plain + _FINE_TUNED * noise,
            "the issued embedding, the W it came from",
        ),
    )
    for name, setting, public, assumes in cases:
        guess = public_embedding.recover_key(public, issued)
        yield _opened(material, key, guess, (name, setting, assumes))
    guess = two_keys.other_key(plain @ other.matrix.T, other.matrix, issued)
    yield _opened(
        material,
        key,
        guess,
        (
            "two issued embeddings, one leaked key",
            "the other key of the same model",
            "both issued embeddings, and one key",
        ),
    )


ATTACKS: Final[dict[str, Attack]] = {
    "norm map": thumbnail,
    "known plaintext": known_blocks,
    "gallery match": gallery,
    "traces": traces,
    "embeddings": embeddings,
    "ciphertext only": ciphertext_only,
}


def _key(material: Material, place: int) -> BlockKey:
    return ours.draw(material.coordinates, material.generator(100, place))


def _opened(
    material: Material,
    key: BlockKey,
    guess: np.ndarray,
    words: tuple[str, str, str],
) -> Finding:
    """Decrypt with a guessed key; `words` are name, setting and what it assumes."""
    name, setting, assumes = words
    hidden = key.encrypt(material.own)
    return finding(
        name,
        ours.NAME,
        setting,
        assumes,
        original=material.own,
        seen=_looks(material, hidden),
        recovered=material.coordinates.pictures(hidden @ guess),
    )


def _looks(material: Material, blocks: np.ndarray) -> Pictures:
    return shown(material.coordinates, blocks)


def _is_light(coordinates: Pixels | SentPixels) -> bool:
    """Whether the norm of a block is its brightness: pixels from 0 to 1, and whole."""
    if isinstance(coordinates, SentPixels):
        return False
    return coordinates.deviation == 1.0 and coordinates.mean == 0.0


def _fitted(material: Material, maps: np.ndarray) -> np.ndarray:
    """Norms to brightness by one straight line, fitted on public pictures."""
    public = norm_map.norm_map(_key(material, 8).encrypt(material.public)).ravel()
    side = material.coordinates.patch_size
    n, c, h, w = material.public.shape
    cut = material.public.reshape(n, c, h // side, side, w // side, side)
    slope, offset = np.polyfit(public, cut.mean(axis=(1, 3, 5)).ravel(), 1)
    return slope * maps + offset
