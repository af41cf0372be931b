"""Ciphertext only against block scrambling: a jigsaw, put together across pictures.

Chuman, Kurihara & Kiya, "On the security of block scrambling-based EtC systems against
jigsaw puzzle solver attacks" (ICASSP 2017) solve it in one picture, where blocks are
large: edges that fit lie side by side, whichever way a block was turned, mirrored, made
negative or its colours exchanged. Here blocks are small, and the key is the same for
every picture, so all pictures vote. For any two blocks the best fit of their edges over
all pictures is a number that the key does not change. It is compared with that of any
two places of public pictures: a quadratic assignment (SciPy's fast approximate one,
Vogelstein et al. 2015, PLoS ONE 10:e0121002, then exchanges of two; many starts) says
what lies where. Then from one block on, each next one is turned as its edges fit best.

What stays open: which of eight ways the whole picture is up, and its colours; of their
orders and negatives `Lifelike` chooses. Assumes: many pictures under one key, and
public pictures of the same kind.
Costs: 24 products of all edges with one another; hundredths of a second a start for 64
places.
"""

import math
from dataclasses import dataclass, field
from itertools import permutations
from typing import Final

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int
from scipy.optimize import quadratic_assignment

from core.errors import ShapeError
from core.leakage.fidelity import Pictures
from core.leakage.lifelike import Alternative, Lifelike, negative
from core.leakage.moments import Blocks, require_blocks
from core.leakage.schemes.block_scrambling import (
    ScramblingKey,
    variant_matrices,
)

# One block's four sides, walked clockwise, in all pictures.
Edges = Float[np.ndarray, "places sides n side c"]
Fits = Float[np.ndarray, "places places"]
Flat = Float[np.ndarray, "n places d"]

_SIDES: Final = 4
# More pictures tell no more of how one block lies beside the next.
_FITTED: Final = 100
_SWEEPS: Final = 10
# Of agreement: below it, edges are equal; of gains, below it, they are rounding.
_LEAST: Final = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Jigsaw:
    """What an attacker prepares once from public blocks, less 1/2: how places fit."""

    patch_size: int
    channels: int
    grid: tuple[int, int]
    fits: Fits = field(repr=False)

    @classmethod
    def of(cls, public: Blocks, patch_size: int, channels: int) -> "Jigsaw":
        """Measure the fit of every two places of public pictures."""
        require_blocks(public)
        fits = edge_fits(_flat(public), patch_size, channels)
        return cls(patch_size, channels, public.shape[1:3], fits)

    def places(
        self, seen: Blocks, starts: int, rng: np.random.Generator
    ) -> Int[np.ndarray, " places"]:
        """For each block that is seen, the place it came from."""
        if seen.shape[1:3] != self.grid or starts < 1:
            raise ShapeError(
                f"expected {self.grid} blocks and a start, got {seen.shape}, {starts}"
            )
        fits = edge_fits(_flat(seen), self.patch_size, self.channels)
        found = []
        for number in range(starts):
            first = "randomized" if number else "barycenter"
            options = {"maximize": True, "rng": rng, "P0": first, "maxiter": 100}
            start = quadratic_assignment(self.fits, fits, options=options).col_ind
            found.append(_exchanged(self.fits, fits, start))
        best = max(found, key=lambda order: _agreement(self.fits, fits, order))
        return np.argsort(best)

    def attack(
        self, seen: Blocks, starts: int, rng: np.random.Generator, lifelike: Lifelike
    ) -> ScramblingKey:
        """Return the key that puts the blocks together best."""
        places = self.places(seen, starts, rng)
        kept = _flat(seen)[:_FITTED, np.argsort(places)]
        turning = _Turning(kept, self.patch_size, self.channels, self.grid)
        variants = turning.variants()
        keys = [
            ScramblingKey(self.patch_size, self.channels, places, each[places])
            for each in turning.recoloured(variants)
        ]
        return keys[lifelike.choose([key.decrypt(seen) for key in keys])]


def edge_fits(blocks: Flat, patch_size: int, channels: int) -> Fits:
    """How well the best edges of every two blocks fit, whatever their variants.

    Two edges `e` and `f` agree by `r = 2 |e . f| / (e . e + f . f)` over all pictures,
    with `f` walked either way and its colours in any order; their fit is `-log(1 - r)`,
    since it is the last per cent that tells neighbours from others.
    """
    edges = _edges(blocks, patch_size, channels)
    count = len(edges)
    first = edges.reshape(count * _SIDES, -1)
    norms = (first**2).sum(axis=1)
    best = np.zeros((count * _SIDES,) * 2)
    for way in (slice(None), slice(None, None, -1)):
        for order in permutations(range(channels)):
            other = edges[:, :, :, way][..., list(order)].reshape(len(first), -1)
            best = np.maximum(best, np.abs(first @ other.T))
    agreed = 2 * best / np.maximum(norms[:, None] + norms, np.finfo(float).tiny)
    sides = rearrange(agreed, "(i a) (j b) -> i j (a b)", a=_SIDES, b=_SIDES)
    fits = -np.log(1 + _LEAST - sides.max(axis=-1))
    np.fill_diagonal(fits, 0)
    return fits


def _agreement(known: Fits, seen: Fits, order: Int[np.ndarray, " places"]) -> float:
    return float((known * seen[np.ix_(order, order)]).sum())


def _exchanged(
    known: Fits, seen: Fits, order: Int[np.ndarray, " places"]
) -> Int[np.ndarray, " places"]:
    """Exchange the two places that gain most, until no two do."""
    order = order.copy()
    while True:
        moved = seen[np.ix_(order, order)]
        products = known @ moved
        own = np.diag(products)
        gains = products + products.T - own[:, None] - own + 2 * known * moved
        p, q = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[p, q] <= _LEAST:
            return order
        order[[p, q]] = order[[q, p]]


def _edges(blocks: Flat, patch_size: int, channels: int) -> Edges:
    squares = rearrange(
        blocks, "n p (c y x) -> p n y x c", c=channels, y=patch_size, x=patch_size
    )
    return np.stack(
        [
            squares[:, :, 0],
            squares[:, :, :, -1],
            squares[:, :, -1, ::-1],
            squares[:, :, ::-1, 0],
        ],
        axis=1,
    )


class _Turning:
    """Which variant each place shows, by how the edges of neighbours fit.

    `costs[p, q]` [variants, variants] is the difference of the edges that two
    neighbouring places have in common, over all pictures.
    """

    def __init__(
        self, seen: Flat, patch_size: int, channels: int, grid: tuple[int, int]
    ) -> None:
        # By sign, then by the eight ways round, then by the order of colours.
        self._matrices = variant_matrices(patch_size, channels)
        self._colours = math.factorial(channels)
        rows, columns = grid
        where = np.arange(rows * columns).reshape(grid)
        shape = (channels, patch_size, patch_size)
        numbers = np.arange(self._matrices.shape[1]).reshape(shape)
        right, left = numbers[:, :, -1].ravel(), numbers[:, :, 0].ravel()
        below, above = numbers[:, -1].ravel(), numbers[:, 0].ravel()
        self.costs: dict[tuple[int, int], Float[np.ndarray, "v v"]] = {}
        for pairs, one, two in (
            (np.stack([where[:, :-1], where[:, 1:]], -1), right, left),
            (np.stack([where[:-1], where[1:]], -1), below, above),
        ):
            for p, q in pairs.reshape(-1, 2).tolist():
                self.costs[p, q] = self._cost(seen[:, p], seen[:, q], one, two)
                self.costs[q, p] = self.costs[p, q].T
        self._near: dict[int, list[int]] = {}
        for p, q in self.costs:
            self._near.setdefault(p, []).append(q)

    def variants(self) -> Int[np.ndarray, " places"]:
        """Grow from the pair that fits best, then mend; the best of eight ways round.

        The variants of the first block that differ in sign or colours only lead to the
        same picture in other colours.
        """
        first = min(self.costs, key=lambda pair: float(self.costs[pair].min()))[0]
        found = [
            self._mended(self._grown(first, variant))
            for variant in range(0, len(self._matrices) // 2, self._colours)
        ]
        return min(found, key=self._total)

    def recoloured(
        self, variants: Int[np.ndarray, " places"]
    ) -> list[Int[np.ndarray, " places"]]:
        """The same way round, in every order of colours, and as the negative."""
        matrices = self._matrices
        flat, half = matrices.reshape(len(matrices), -1), len(matrices) // 2
        changes = [*range(self._colours), *range(half, half + self._colours)]
        # A block decrypts to V^T y, and in other colours to C V^T y.
        return [
            (
                flat @ (matrices[variants] @ matrices[c].T).reshape(len(variants), -1).T
            ).argmax(axis=0)
            for c in changes
        ]

    def _cost(
        self,
        one: Float[np.ndarray, "n d"],
        two: Float[np.ndarray, "n d"],
        right: Int[np.ndarray, " edge"],
        left: Int[np.ndarray, " edge"],
    ) -> Float[np.ndarray, "v v"]:
        a, b = (
            (block @ self._matrices[:, :, edge]).reshape(len(self._matrices), -1)
            for block, edge in ((one, right), (two, left))
        )
        squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
        return squares - 2 * a @ b.T

    def _grown(self, first: int, variant: int) -> Int[np.ndarray, " places"]:
        """Prim's tree: always the place next whose best variant fits best."""
        variants = np.full(len(self._near), -1)
        variants[first] = variant
        while (variants < 0).any():
            ready = [
                (self._sums(place, variants), place)
                for place in np.flatnonzero(variants < 0).tolist()
                if any(variants[q] >= 0 for q in self._near[place])
            ]
            sums, place = min(ready, key=lambda each: float(each[0].min()))
            variants[place] = sums.argmin()
        return variants

    def _mended(
        self, variants: Int[np.ndarray, " places"]
    ) -> Int[np.ndarray, " places"]:
        for _ in range(_SWEEPS):
            before = variants.copy()
            for place in self._near:
                variants[place] = self._sums(place, variants).argmin()
            if np.array_equal(before, variants):
                break
        return variants

    def _sums(
        self, place: int, variants: Int[np.ndarray, " places"]
    ) -> Float[np.ndarray, " v"]:
        """Mean cost of each variant beside the neighbours that have one already."""
        placed = [q for q in self._near[place] if variants[q] >= 0]
        return np.mean([self.costs[place, q][:, variants[q]] for q in placed], axis=0)

    def _total(self, variants: Int[np.ndarray, " places"]) -> float:
        return float(
            sum(cost[variants[p], variants[q]] for (p, q), cost in self.costs.items())
        )


def recolourings(channels: int) -> list[Alternative]:
    """What `Lifelike` is to tell pictures from: other orders of colours, negatives."""
    orders = list(permutations(range(channels)))
    return [
        _recolouring(order, negated)
        for negated in (False, True)
        for order in orders
        if negated or order != orders[0]
    ]


def _recolouring(order: tuple[int, ...], negated: bool) -> Alternative:
    def change(pictures: Pictures) -> Pictures:
        moved = pictures[:, list(order)]
        return negative(moved) if negated else moved

    return change


def _flat(blocks: Blocks) -> Flat:
    return rearrange(blocks, "n rows columns d -> n (rows columns) d")
