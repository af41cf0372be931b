"""Block scrambling for encryption-then-compression (EtC): blocks are moved and turned.

Every block of a picture goes to another place, is rotated and mirrored (one of eight
ways), made a negative or not, and its colour channels change places (one of six). What
happens at each place is the key, the same for every picture. Kurihara, Kikuchi,
Imaizumi, Shiota & Kiya 2015, IEICE Trans. E98-A:2238; Chuman, Sirichotedumrong & Kiya,
IEEE TIFS 2019, arXiv 1811.00236.

A `variant` numbers what happens to a block: 2 x 8 x channels! of them.
"""

from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Final

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from core.blocks import from_blocks, to_blocks
from core.errors import KeyMismatchError
from core.leakage.fidelity import Pictures
from core.leakage.moments import Blocks
from core.leakage.schemes.block_key import signed_permutation

NAME = "block scrambling"

_TURNS: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class ScramblingKey:
    """The block at place `places[i]` goes, in its variant `variants[i]`, to place i."""

    patch_size: int
    channels: int
    places: Int[np.ndarray, " places"] = field(repr=False)
    variants: Int[np.ndarray, " places"] = field(repr=False)

    def encrypt(self, pictures: Pictures) -> Blocks:
        """Return the scrambled blocks, less 1/2: a negative is a change of sign."""
        blocks = centred_blocks(pictures, self.patch_size)
        rows, columns = blocks.shape[1:3]
        self._require_places(rows * columns)
        flat = rearrange(blocks, "n rows columns d -> n (rows columns) d")
        turns = variant_matrices(self.patch_size, self.channels)[self.variants]
        moved = np.einsum("pij,npj->npi", turns, flat[:, self.places])
        return moved.reshape(blocks.shape)

    def decrypt(self, blocks: Blocks) -> Pictures:
        """Undo `encrypt`."""
        flat = rearrange(blocks, "n rows columns d -> n (rows columns) d")
        self._require_places(flat.shape[1])
        turns = variant_matrices(self.patch_size, self.channels)[self.variants]
        plain = np.empty_like(flat)
        plain[:, self.places] = np.einsum("pij,npi->npj", turns, flat)
        return as_pictures(plain.reshape(blocks.shape), self.patch_size, self.channels)

    def _require_places(self, got: int) -> None:
        if got != len(self.places):
            raise KeyMismatchError(f"a key for {len(self.places)} places, got {got}")


def draw(
    patch_size: int, channels: int, places: int, rng: np.random.Generator
) -> ScramblingKey:
    """Draw where each block goes, and in which of its variants."""
    count = len(variant_matrices(patch_size, channels))
    variants = rng.integers(count, size=places)
    return ScramblingKey(patch_size, channels, rng.permutation(places), variants)


def variant_matrices(
    patch_size: int, channels: int
) -> Float[np.ndarray, "variants d d"]:
    """Every variant of a block as a permutation with one sign, [variants, D, D]."""
    found = [
        sign * signed_permutation(_order(patch_size, turns, mirrored, channel_order))
        for sign, turns, mirrored, channel_order in product(
            (1.0, -1.0), range(_TURNS), (False, True), permutations(range(channels))
        )
    ]
    return np.stack(found)


def _order(
    patch_size: int, turns: int, mirrored: bool, channel_order: tuple[int, ...]
) -> Int[np.ndarray, " d"]:
    channels = len(channel_order)
    shape = (channels, patch_size, patch_size)
    numbers = np.arange(channels * patch_size**2).reshape(shape)[list(channel_order)]
    turned = np.rot90(numbers, turns, axes=(1, 2))
    return (turned[:, :, ::-1] if mirrored else turned).ravel()


def centred_blocks(pictures: Pictures, patch_size: int) -> Blocks:
    """Plain blocks as this scheme sees them: less 1/2."""
    return to_blocks(pictures.astype(np.float64) - 0.5, patch_size)


def as_pictures(blocks: Blocks, patch_size: int, channels: int) -> Pictures:
    """Undo `centred_blocks`, without undoing any key."""
    return from_blocks(blocks + 0.5, patch_size, channels)
