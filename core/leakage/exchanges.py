"""Ciphertext only, when the key only moves numbers and makes some negative.

The loss is that of `second_order`: of all such keys the one is sought under which the
decrypted windows are likeliest for the Gaussian of public pictures. From a random key,
two numbers of the block change places, or one or both become negative, wherever that
lowers the loss most, until nothing does; while the regularisation falls as there. Of
several starts the loss chooses. So few keys are possible that no rounding is needed,
and one picture is often enough for the very key. What stays open is the negative of all
that is seen, and sometimes the order of colours: how often colours occur tells.

Assumes: what `second_order` assumes, and that the scheme is a conventional one.
Costs: 16 D^2 products an exchange, which weigh all exchanges at once, and two exchanges
or three for each number of a block: for D = 48 a tenth of a second a start. Source: our
own; it is local search by pairs for quadratic assignment (Armour & Buffa 1963,
Management Science 9:294), of which this loss is a case.
"""

from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from jaxtyping import Float

from core.errors import ShapeError
from core.leakage.moments import Blocks, WindowMoments
from core.leakage.schemes.block_key import signed_permutation
from core.leakage.second_order import Guess

Matrix = Float[np.ndarray, "d d"]
Parts = Float[np.ndarray, "parts d d"]

# Of the mean variance, from `second_order`'s first to its last, in fewer steps.
REGULARISATION: Final = (1.6, 0.3, 0.05, 0.016, 0.005, 1.6e-3, 5e-4)
_FOUR: Final = 4
# Below this share of the loss a gain is rounding.
_SLACK: Final = 1e-9


class Exchanges:
    """What an attacker prepares once from public pictures [n, rows, columns, D]."""

    def __init__(self, blocks: Blocks) -> None:
        windows = WindowMoments.of(blocks)
        self.dimension = windows.dimension
        self._forms = [_Form.of(windows, r) for r in REGULARISATION]

    def attack(
        self, seen: Blocks, starts: int, rng: np.random.Generator, *, signed: bool
    ) -> Guess:
        """Return the best guess for one key's blocks; unsigned: nothing is negative."""
        if starts < 1:
            raise ShapeError(f"expected at least one start, got {starts}")
        if seen.shape[-1] != self.dimension:
            raise ShapeError(
                f"expected blocks of {self.dimension}, got {seen.shape[-1]}"
            )
        windows = WindowMoments.of(seen)
        guesses = [
            self._descended(windows, _drawn(self.dimension, rng, signed), signed=signed)
            for _ in range(starts)
        ]
        return min(guesses, key=lambda guess: guess.loss)

    def _descended(
        self, windows: WindowMoments, start: Matrix, *, signed: bool
    ) -> Guess:
        state = _State(windows, start)
        for form in self._forms:
            state.settle(form, signed=signed)
        return Guess(state.matrix, state.loss(self._forms[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """The public side: `<weights, Z>` over all pairs of blocks, less `2 pull . z`."""

    weights: Parts = field(repr=False)
    pull: Float[np.ndarray, "four d"] = field(repr=False)

    @classmethod
    def of(cls, windows: WindowMoments, regularisation: float) -> Self:
        covariance = windows.covariance
        level = regularisation * np.trace(covariance) / len(covariance)
        inverse = np.linalg.inv(covariance + level * np.eye(len(covariance)))
        return cls(_parts(inverse), (inverse @ windows.mean).reshape(_FOUR, -1))


class _State:
    """Decrypted so far: `matrix` B, and the moments of windows of `B y`."""

    def __init__(self, windows: WindowMoments, start: Matrix) -> None:
        self.matrix = start.copy()
        self.moments = start @ _parts(windows.second) @ start.T
        self.mean = windows.means() @ start.T

    def loss(self, form: _Form) -> float:
        return float(
            np.sum(form.weights * self.moments) - 2 * np.sum(form.pull * self.mean)
        )

    def settle(self, form: _Form, *, signed: bool) -> None:
        """Make the best exchange until none is left that lowers the loss."""
        while True:
            gains, signs = _gains(form, self, signed=signed)
            p, q = np.unravel_index(int(gains.argmin()), gains.shape)
            if gains[p, q] >= -_SLACK * abs(self.loss(form)):
                return
            self._exchange(int(p), int(q), signs[:, p, q])

    def _exchange(self, p: int, q: int, signs: Float[np.ndarray, " two"]) -> None:
        """Number q, times its sign, to place p, and the other way round."""
        order = np.arange(len(self.matrix))
        factors = np.ones(len(order))
        order[[p, q]] = q, p
        factors[p], factors[q] = signs if p != q else (signs[0], signs[0])
        self.matrix = factors[:, None] * self.matrix[order]
        self.mean = factors * self.mean[:, order]
        moved = self.moments[:, order][:, :, order]
        self.moments = factors[:, None] * moved * factors


def _drawn(size: int, rng: np.random.Generator, signed: bool) -> Matrix:
    signs = rng.choice((-1.0, 1.0), size=size) if signed else None
    return signed_permutation(rng.permutation(size), signs)


def _gains(
    form: _Form, state: _State, *, signed: bool
) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, "2 d d"]]:
    """How the loss changes by the best exchange of each two, and the signs it takes.

    On the diagonal: by the negative of one.
    """
    towards, back, turned, alone = _terms(form, state)
    choices = np.array(_SIGNS if signed else _SIGNS[:1])
    changes = np.stack(
        [
            back + 2 * (a * towards + b * towards.T) + a * b * (turned + turned.T)
            for a, b in choices
        ]
    )
    best = changes.argmin(axis=0)
    signs = choices[best].transpose(2, 0, 1)
    gains = np.take_along_axis(changes, best[None], axis=0)[0]
    np.fill_diagonal(gains, alone if signed else 0.0)
    for each in signs:
        np.fill_diagonal(each, -1.0)
    return gains, signs


def _terms(form: _Form, state: _State) -> tuple[np.ndarray, ...]:
    """What each exchange adds, times its signs, and what it takes away.

    `K` are the weights, `Z` the moments, and sums are over pairs of a window's blocks:
    the sum over j of `K_pj Z_qj`, without what lies among p and q themselves; what two
    had before; `K_pq Z_qp`; and what the negative of one number changes.
    """
    k, z = form.weights, state.moments
    kd, zd = (np.diagonal(each, axis1=1, axis2=2) for each in (k, z))
    rows = np.einsum("upj,uqj->pq", k, z, optimize=True)
    same, turned = (k * z).sum(axis=0), (k * z.transpose(0, 2, 1)).sum(axis=0)
    squares = kd.T @ zd
    among = np.einsum("up,uqp->pq", kd, z) + np.einsum("upq,uq->pq", k, zd)
    pulled = form.pull.T @ state.mean
    own = np.diag(rows) - np.diag(squares) - np.diag(pulled)
    square = np.diag(squares)
    before = 2 * (own[:, None] - same) + square[:, None] + same
    back = squares + squares.T - before - before.T
    return rows - among - pulled, back, turned, -4 * own


_SIGNS: Final = ((1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0))


def _parts(window: Float[np.ndarray, "window window"]) -> Parts:
    """A window's matrix as one for each of its 16 pairs of blocks."""
    size = len(window) // _FOUR
    parts = window.reshape(_FOUR, size, _FOUR, size).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(parts.reshape(_FOUR**2, size, size))
