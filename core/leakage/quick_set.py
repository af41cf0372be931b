"""The quick attacks, for a release's card: seconds of one core, NumPy alone.

Of the attacks of `default_set` those that need no embedding, on few pictures and keys:
the norm map, a few known blocks, and one transformed picture with nothing else. Known
plaintext of D blocks is left out, for it is exact and tells nothing of the pictures.
"""

from typing import Final

import numpy as np
from einops import reduce

from core.card import Card, Figure
from core.errors import DataError, ShapeError
from core.leakage import known_plaintext, norm_map
from core.leakage.colour_signs import Colours
from core.leakage.fidelity import WINDOW, Pictures, fidelity, ssim
from core.leakage.moments import BlockPrior, Blocks, effective_rank, flat
from core.leakage.schemes.random_orthogonal import NAME, haar
from core.leakage.second_order import Public
from core.leakage.sent_pixels import SentPixels

# Pictures that are attacked, and those that the attacker has: so many, and no more
# numbers in all than these of 32x32.
OWN: Final = 24
PUBLIC: Final = 1000
_NUMBERS: Final = PUBLIC * 3 * 32 * 32
FEWEST: Final = 12

_KNOWN: Final = (5, 12)
# Pictures that are attacked alone, each under a key of its own, and starts for each.
_ALONE: Final = 3
_STARTS: Final = 4
# Of larger blocks only the strongest axes: they hold nearly all that pictures have.
_AXES: Final = 32
_DECIMALS: Final = 4
# Below it, numbers are all the same.
_TINY: Final = 1e-12


def measure_card(
    own: Pictures, public: Pictures, sent: SentPixels, seed: int = 0
) -> Card:
    """Attack pictures of 0 to 1 that were transformed as a release has it.

    Args:
        own: [n, c, h, w], which the model was not trained on.
        public: What the attacker has, of the same kind.
        sent: How pictures become numbers.
        seed: Fixes every key and start; none of them is a secret.

    Raises:
        DataError: fewer than 12 pictures on a side, or pictures that do not differ.
        ShapeError: pictures too small to attack.
    """
    own, public = own[:OWN], public[: kept_public(own)]
    _require(own, public, sent)
    rng = np.random.default_rng(seed)
    attacks = [
        _norms(own, public, sent, rng),
        *_known(own, public, sent, rng),
        _alone(own, public, sent, rng),
    ]
    shield = "" if sent.shield is None else f", {sent.shield.spec}"
    rank = effective_rank(sent.blocks(public))
    return Card(NAME + shield, rank, len(own), len(public), tuple(attacks))


def kept_public(pictures: Pictures) -> int:
    """How many pictures of this size the attacker has at most."""
    return min(PUBLIC, max(FEWEST, _NUMBERS // max(1, pictures[0].size)))


def _norms(
    own: Pictures, public: Pictures, sent: SentPixels, rng: np.random.Generator
) -> Figure:
    """Brightness by one straight line from the norms, fitted on public pictures."""
    _, channels, height, width = own.shape
    side = sent.pixels.patch_size
    light = reduce(public, "n c (r p) (k q) -> n r k", "mean", p=side, q=side)
    known = norm_map.norm_map(sent.sent(public, rng))
    slope = ((known - known.mean()) * light).mean() / max(float(known.var()), _TINY)
    norms = norm_map.norm_map(_hidden(own, sent, rng))
    maps = slope * (norms - known.mean()) + light.mean()
    grey = norm_map.enlarged(maps, height, width, channels)
    return _figure("norm map", "one picture, no work at all", own, grey)


def _known(
    own: Pictures, public: Pictures, sent: SentPixels, rng: np.random.Generator
) -> list[Figure]:
    plain, hidden = flat(sent.blocks(own)), _hidden(own, sent, rng)
    prior = BlockPrior.of(sent.blocks(public))
    found = []
    for count in _KNOWN:
        chosen = rng.choice(len(plain), min(count, len(plain)), replace=False)
        pairs = plain[chosen], flat(hidden)[chosen]
        seen = known_plaintext.seen_directions(*pairs)
        recovered = sent.pictures(known_plaintext.recover(hidden, seen, prior))
        setting = f"{count} known blocks of the key"
        found.append(_figure("known plaintext", setting, own, recovered))
    return found


def _alone(
    own: Pictures, public: Pictures, sent: SentPixels, rng: np.random.Generator
) -> Figure:
    attacker = Public(sent.blocks(public), min(_AXES, sent.dimension))
    colours, lift = Colours(public), _lift(sent)
    seen = [_hidden(own[n : n + 1], sent, rng) for n in range(_ALONE)]
    recovered: list[Pictures] = []
    negative: list[Pictures] = []
    for guess, blocks in zip(attacker.attack(seen, _STARTS, rng), seen, strict=True):
        chosen = colours.choose(lift @ guess.matrix, blocks, sent.pixels.pictures)
        recovered.append(sent.pixels.pictures(blocks @ chosen.T))
        negative.append(sent.pixels.pictures(-blocks @ chosen.T))
    seen_as = _by_eye(own[:_ALONE], np.concatenate(recovered), np.concatenate(negative))
    setting = f"one picture under each of {_ALONE} keys, or its negative"
    return _figure("ciphertext only", setting, own[:_ALONE], seen_as)


def _by_eye(own: Pictures, recovered: Pictures, negative: Pictures) -> Pictures:
    """The picture or its negative, whichever is closer: a person sees which is which.

    Normalised pixels have a mean near zero, so that second moments do not tell.
    """
    closer = ssim(own, recovered) >= ssim(own, negative)
    return np.where(closer[:, None, None, None], recovered, negative)


def _hidden(own: Pictures, sent: SentPixels, rng: np.random.Generator) -> Blocks:
    """Pictures under a key that nothing else here uses."""
    return sent.sent(own, rng) @ haar(sent.dimension, rng).T


def _lift(sent: SentPixels) -> np.ndarray:
    """From what a shield leaves back to D numbers, [D, r]."""
    if sent.shield is None:
        return np.eye(sent.dimension)
    return sent.shield.projection().T


def _figure(name: str, setting: str, own: Pictures, recovered: Pictures) -> Figure:
    found = fidelity(own, recovered)
    shares = (found.psnr, found.ssim, found.ssim_low, found.ssim_high)
    rounded = (round(each, _DECIMALS) for each in shares)
    return Figure(name, setting, found.images, *rounded)


def _require(own: Pictures, public: Pictures, sent: SentPixels) -> None:
    if min(len(own), len(public)) < FEWEST:
        raise DataError(
            f"a card needs {FEWEST} pictures to attack and as many to attack with, got "
            f"{len(own)} and {len(public)}"
        )
    sides = own.shape[2:]
    if min(sides) < max(WINDOW, 2 * sent.pixels.patch_size):
        raise ShapeError(f"pictures of {sides} are too small to attack")
    if np.ptp(public) < _TINY:
        raise DataError("the pictures do not differ: there is nothing to recover")
