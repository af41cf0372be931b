"""Jigsaw: put scrambled blocks back where they were, from many pictures under one key.

Places: whatever is done to a block, its length about mid-grey and its contrast stay.
Over many pictures, these of near places go together, and public pictures say how much
of which two places; the permutation that makes both tables agree is a quadratic
assignment (SciPy's FAQ, Vogelstein et al. 2015, PLOS ONE 10:e0121002).

Variants: neighbours continue one another, as in `second_order`, and there are only
2 x 8 x channels! ways to turn a block: max-product belief propagation over the grid.

Jigsaw attacks on block scrambling: Chuman, Kurihara & Kiya 2018, IEICE Trans.
E101-D:37, on one picture by its edges, with larger blocks. This one needs many pictures
under one key, and works with small blocks.

Assumes: N scrambled pictures under one key, and public pictures of the same kind, of the
same size. Costs: one quadratic assignment a start, and a table of variants^2 an edge.
"""

from typing import Final

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int
from scipy.optimize import quadratic_assignment

from core.errors import ShapeError
from core.leakage.moments import Blocks, require_blocks
from core.leakage.schemes.block_scrambling import ScramblingKey, variant_matrices

Table = Float[np.ndarray, "places places"]
Places = Int[np.ndarray, " places"]

_ROUNDS: Final = 30
_DAMPING: Final = 0.5
_REGULARISATION: Final = 1e-2


def reassemble(
    scrambled: Blocks,
    public: Blocks,
    patch_size: int,
    channels: int,
    *,
    starts: int,
    rng: np.random.Generator,
) -> ScramblingKey:
    """Return the likeliest key; blocks less 1/2, `public` of plain pictures."""
    require_blocks(scrambled)
    require_blocks(public)
    if scrambled.shape[1:] != public.shape[1:]:
        raise ShapeError(
            f"expected blocks {public.shape[1:]}, got {scrambled.shape[1:]}"
        )
    if min(len(scrambled), len(public)) < 2:  # noqa: PLR2004 -- a correlation
        raise ShapeError("a jigsaw needs at least two pictures on both sides")
    places = find_places(scrambled, public, starts=starts, rng=rng)
    variants = _find_variants(scrambled, public, places, patch_size, channels)
    return ScramblingKey(patch_size, channels, places, variants)


def find_places(
    scrambled: Blocks, public: Blocks, *, starts: int, rng: np.random.Generator
) -> Places:
    """Return, for each place of the scrambled pictures, where its block was."""
    seen, known = _tables(scrambled), _tables(public)
    options = {"maximize": True, "rng": rng, "P0": "randomized", "shuffle_input": True}
    found = [
        quadratic_assignment(seen, known, options=options) for _ in range(starts)
    ]
    best: Places = max(found, key=lambda result: result.fun).col_ind
    return best


def _tables(blocks: Blocks) -> Table:
    """How what stays of a block goes together between places, in one table."""
    flat = rearrange(blocks, "n rows columns d -> n (rows columns) d")
    lengths = np.sqrt((flat**2).mean(axis=-1))
    contrast = np.log(flat.std(axis=-1) + 1e-3)
    return np.corrcoef(lengths.T) + np.corrcoef(contrast.T)


def _find_variants(
    scrambled: Blocks, public: Blocks, places: Places, patch_size: int, channels: int
) -> Places:
    turns = variant_matrices(patch_size, channels)
    rows, columns = public.shape[1:3]
    flat = rearrange(scrambled, "n rows columns d -> n (rows columns) d")
    moved = np.empty_like(flat)
    moved[:, places] = flat
    grid = moved.reshape(len(flat), rows, columns, -1)
    right = _edge_scores(grid[:, :, :-1], grid[:, :, 1:], *_beside(public, 2), turns)
    below = _edge_scores(grid[:, :-1], grid[:, 1:], *_beside(public, 1), turns)
    best = _believe(_own_scores(grid, public, turns), right, below)
    return best.reshape(-1)[places]


def _beside(public: Blocks, axis: int) -> tuple[np.ndarray, np.ndarray]:
    cut = [slice(None)] * public.ndim
    first, second = list(cut), list(cut)
    first[axis], second[axis] = slice(-1), slice(1, None)
    return public[tuple(first)], public[tuple(second)]
