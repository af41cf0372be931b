"""Ciphertext only: the key that makes neighbouring blocks continue one another.

Public pictures give the mean `m` and the covariance `S` of windows of 2x2 blocks. Of
all orthogonal `B`, the one sought makes the transformed windows, multiplied by it block
by block, likeliest under the Gaussian (m, S):

    minimise  tr(S^-1 M(B)) - 2 m^T S^-1 m(B)

with `M(B)` and `m(B)` the second moment and the mean of windows `B y`; the determinant
does not change, so it drops out. One block alone leaves its principal axes' signs and
every near-equal variance open; what lies beside it closes them.

Start: the principal axes of both, matched in order, with signs found by descent on the
same loss from a random draw. Then Jacobi sweeps: in every plane of two axes the best
rotation or reflection is found exactly (the loss is a trigonometric polynomial of
degree two), while the regularisation of `S` falls. Several starts; the loss chooses.

Assumes: transformed pictures under one key for all blocks, and public pictures of
roughly the same kind; no key, no plaintext, no model. Costs: k^2/2 planes a sweep, a
dozen sweeps: for D = 48 about a second for one start, and far less for each of many
that run side by side. Source: our own; the closest known are second-order blind source
separation (Belouchrani et al. 1997, IEEE TSP 45:434) and Jacobi's method for it
(Cardoso & Souloumiac 1996, SIAM J. Matrix Anal. Appl. 17:161).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float

from core.errors import ShapeError
from core.leakage.moments import PAIRS, Blocks, WindowMoments, cells

Matrix = Float[np.ndarray, "d d"]
Axes = Float[np.ndarray, "d k"]
Stack = Float[np.ndarray, "k parts k"]

# Of the mean variance: first only the strong axes count, in the end nearly all of them.
# Below the last, one picture's own deviations from the Gaussian would be fitted.
REGULARISATION: Final = (1.6, 0.5, 0.16, 0.05, 0.016, 0.005, 1.6e-3, 5e-4)
# The first level decides most; each of the others needs one sweep, the last one two.
_FIRST_SWEEPS: Final = 3
_LAST: Final = 3
_NUDGE: Final = 0.1
_ANGLES: Final = 16
_NEWTON: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Guess:
    """`matrix` [D, D] decrypts: `x = B y`; `loss` compares guesses, lower is better."""

    matrix: Matrix = field(repr=False)
    loss: float


class Public:
    """What an attacker prepares once from public pictures [n, rows, columns, D]."""

    def __init__(self, blocks: Blocks, components: int | None = None) -> None:
        """Keep the strongest `components` axes; all of them without it."""
        windows = WindowMoments.of(blocks)
        self.dimension = windows.dimension
        self.axes = _principal(windows, components or self.dimension)
        self.forms = [_form(windows, self.axes, r) for r in REGULARISATION]

    def attack(
        self, seen: Sequence[Blocks], starts: int, rng: np.random.Generator
    ) -> list[Guess]:
        """Return the best guess for each of several keys' blocks.

        All starts of all keys are turned side by side: that is far quicker than one by
        one, and the answer does not depend on it.
        """
        if starts < 1:
            raise ShapeError(f"expected at least one start, got {starts}")
        return [ranked[0] for ranked in self._guesses(seen, starts, rng)]

    def polish(self, seen: Blocks, matrices: Sequence[Matrix]) -> list[Guess]:
        """Descend once more from each of several matrices, under the last losses."""
        problems = _Problems([self._sight(seen)] * len(matrices))
        sight = problems.sights[0]
        problems.turn_all(np.stack([self.axes.T @ m @ sight.axes for m in matrices]))
        for form in self.forms[-_LAST:]:
            problems.sweep(form)
        return self._finished(problems)

    def _guesses(
        self, seen: Sequence[Blocks], starts: int, rng: np.random.Generator
    ) -> list[list[Guess]]:
        sights = [self._sight(blocks) for blocks in seen]
        problems = _Problems([sight for sight in sights for _ in range(starts)])
        size = len(problems.mean)
        problems.turn_all(_nudges(len(problems.sights), starts, size, rng))
        problems.choose_signs(self.forms[0], rng)
        for level, form in enumerate(self.forms):
            for _ in range(_FIRST_SWEEPS if level == 0 else 1):
                problems.sweep(form)
        problems.sweep(self.forms[-1])
        guesses = self._finished(problems)
        return [
            sorted(guesses[first : first + starts], key=lambda guess: guess.loss)
            for first in range(0, len(guesses), starts)
        ]

    def _sight(self, blocks: Blocks) -> "_Sight":
        if blocks.shape[-1] != self.dimension:
            raise ShapeError(
                f"expected blocks of {self.dimension}, got {blocks.shape[-1]}"
            )
        windows = WindowMoments.of(blocks)
        axes = _principal(windows, self.axes.shape[1])
        moments = _stacked(axes.T @ cells(windows.second) @ axes)
        return _Sight(axes, moments, (windows.means() @ axes).T)

    def _finished(self, problems: "_Problems") -> list[Guess]:
        losses = problems.losses(self.forms[-1])
        turned = problems.turned.transpose(2, 0, 1)
        return [
            Guess(self.axes @ each @ sight.axes.T, float(loss))
            for each, sight, loss in zip(turned, problems.sights, losses, strict=True)
        ]


def _nudges(
    searches: int, starts: int, size: int, rng: np.random.Generator
) -> Float[np.ndarray, "s k k"]:
    """No turn for the first start of each key, random ones for the others.

    Cayley's transform of a skew matrix is orthogonal. From the principal axes alone
    every draw of signs leads to the same end.
    """
    skew = _NUDGE * rng.standard_normal((searches, size, size))
    skew -= skew.transpose(0, 2, 1)
    skew[::starts] = 0
    return np.linalg.solve(np.eye(size) - skew, np.eye(size) + skew)


def _principal(windows: WindowMoments, count: int) -> Axes:
    """The strongest principal axes of single blocks, strongest first."""
    _, vectors = np.linalg.eigh(windows.prior().covariance)
    return vectors[:, ::-1][:, :count]


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """The public side: `<weights, B X B^T>` summed over parts, less `2 pull . B m`."""

    weights: Stack = field(repr=False)
    pull: Float[np.ndarray, "k four"] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Sight:
    """The seen side, in its own principal axes."""

    axes: Axes = field(repr=False)
    moments: Stack = field(repr=False)
    mean: Float[np.ndarray, "k four"] = field(repr=False)


def _form(windows: WindowMoments, axes: Axes, regularisation: float) -> _Form:
    lifted = np.kron(np.eye(4), axes)
    covariance = lifted.T @ windows.covariance @ lifted
    # The mean variance of all D coordinates, however few axes are kept.
    level = np.trace(windows.covariance) / len(windows.covariance)
    inverse = np.linalg.inv(
        covariance + regularisation * level * np.eye(lifted.shape[1])
    )
    pull = (inverse @ (lifted.T @ windows.mean)).reshape(4, -1).T
    # Two blocks count in both orders, a block with itself once.
    orders = np.array([1.0 if i == j else 2.0 for i, j in PAIRS])
    return _Form(_stacked(cells(inverse) * orders[:, None, None]), pull)


def _stacked(matrices: Float[np.ndarray, "parts k k"]) -> Stack:
    """Every matrix and its transpose, so that a row holds what a turn of it touches."""
    both = np.concatenate([matrices, matrices.transpose(0, 2, 1)])
    return np.ascontiguousarray(both.transpose(1, 0, 2))


class _Problems:
    """Many searches side by side; the last axis of every array is the search.

    `moments` [k, parts, k, s] are those of windows turned so far, `mean` [k, 4, s] too,
    and `turned` [k, k, s] is B in the principal axes.
    """

    def __init__(self, sights: Sequence[_Sight]) -> None:
        self.sights = sights
        self.moments = np.stack([sight.moments for sight in sights], axis=-1)
        self.mean = np.stack([sight.mean for sight in sights], axis=-1)
        size = len(self.mean)
        self.turned = np.repeat(np.eye(size)[:, :, None], len(sights), axis=2)
        self._once = slice(self.moments.shape[1] // 2)

    def losses(self, form: _Form) -> Float[np.ndarray, " s"]:
        weights = form.weights[:, self._once].ravel()
        moments = self.moments[:, self._once].reshape(len(weights), -1)
        return weights @ moments - 2 * np.einsum("ai,ais->s", form.pull, self.mean)

    def turn_all(self, turns: Float[np.ndarray, "s k k"]) -> None:
        """Apply a whole orthogonal matrix to each search."""
        self.moments = np.einsum(
            "sab,bpcs,sdc->apds", turns, self.moments, turns, optimize=True
        )
        self.mean = np.einsum("sab,bis->ais", turns, self.mean)
        self.turned = np.einsum("sab,bcs->acs", turns, self.turned)

    def choose_signs(self, form: _Form, rng: np.random.Generator) -> None:
        """Flip axes from a random draw, until no single flip lowers the loss."""
        pairs = np.einsum(
            "aoj,aojs->saj", form.weights[:, self._once], self.moments[:, self._once]
        )
        linear = np.einsum("ai,ais->as", form.pull, self.mean)
        signs = np.stack(
            [_signs(p, each, rng) for p, each in zip(pairs, linear.T, strict=True)],
            axis=-1,
        )
        self.moments *= signs[:, None, None] * signs[None, None]
        self.mean *= signs[:, None]
        self.turned *= signs[:, None]

    def sweep(self, form: _Form) -> None:
        """Turn every plane once."""
        size = len(self.turned)
        for p in range(size - 1):
            for q in range(p + 1, size):
                self._turn(form, slice(p, q + 1, q - p))

    def _turn(self, form: _Form, pair: slice) -> None:
        turn = _best_turns(self._terms(form, pair))
        rows = self.moments[pair]
        self.moments[pair] = _mixed(turn, rows)
        columns = self.moments[:, :, pair]
        first, second = columns[:, :, 0], columns[:, :, 1]
        self.moments[:, :, pair] = np.stack(
            [
                turn[0, 0] * first + turn[0, 1] * second,
                turn[1, 0] * first + turn[1, 1] * second,
            ],
            axis=2,
        )
        self.mean[pair] = _mixed(turn, self.mean[pair])
        self.turned[pair] = _mixed(turn, self.turned[pair])

    def _terms(self, form: _Form, pair: slice) -> Float[np.ndarray, "20 s"]:
        """Coefficients of the loss in the entries of the turn, and in their products.

        A turn `R` of two axes touches their rows and columns. Against all other axes
        the loss is linear in `R`; among the two it is `<K, R X R^T>`.
        """
        weights, moments = form.weights[pair], self.moments[pair]
        searches = moments.shape[-1]
        k, x = weights[:, :, pair], moments[:, :, pair]
        linear = weights.reshape(2, -1) @ moments.reshape(2, -1, searches)
        linear -= k.reshape(2, -1) @ x.reshape(2, -1, searches)
        linear -= 2 * np.einsum("ai,bis->bas", form.pull[pair], self.mean[pair])
        k = k[:, self._once].transpose(0, 2, 1).reshape(4, -1)
        x = x[:, self._once].transpose(0, 2, 1, 3).reshape(4, -1, searches)
        products = k @ x
        return np.concatenate(
            [
                linear.transpose(1, 0, 2).reshape(4, searches),
                products.transpose(1, 0, 2).reshape(16, searches),
            ]
        )


def _signs(
    pairs: Matrix, linear: Float[np.ndarray, " k"], rng: np.random.Generator
) -> Float[np.ndarray, " k"]:
    """Descend on `s P s - 2 l s` by single flips from a random draw of signs."""
    pairs = (pairs + pairs.T) / 2
    np.fill_diagonal(pairs, 0)
    signs = rng.choice((-1.0, 1.0), size=len(pairs))
    for _ in range(10 * len(pairs)):
        gains = signs * (pairs @ signs - linear)
        axis = int(np.argmax(gains))
        if gains[axis] <= 0:
            break
        signs[axis] = -signs[axis]
    return signs


def _mixed(
    turn: Float[np.ndarray, "2 2 s"], rows: Float[np.ndarray, "2 ... s"]
) -> Float[np.ndarray, "2 ... s"]:
    first, second = rows[0], rows[1]
    return np.stack(
        [
            turn[0, 0] * first + turn[0, 1] * second,
            turn[1, 0] * first + turn[1, 1] * second,
        ]
    )


def _turns(
    angles: Float[np.ndarray, " s"], signs: Float[np.ndarray, " s"]
) -> Float[np.ndarray, "2 2 s"]:
    """Rotations (sign 1) and reflections (sign -1) of the plane."""
    c, s = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([c, -signs * s]), np.stack([s, signs * c])])


def _monomials(turns: Float[np.ndarray, "2 2 s"]) -> Float[np.ndarray, "s 20"]:
    """The entries `R_ab`, then the products `R_ac R_bd` in the order (a b c d)."""
    products = np.einsum("acs,bds->abcds", turns, turns).reshape(16, -1)
    return np.concatenate([turns.reshape(4, -1), products]).T


_STEPS: Final = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
_GRID: Final = np.concatenate(
    [_monomials(_turns(_STEPS, np.full(_ANGLES, sign))) for sign in (1.0, -1.0)]
)
# A constant, cos, sin, cos 2, sin 2 from the values at one sign's angles.
_FOURIER: Final = np.linalg.pinv(
    np.stack(
        [
            np.ones(_ANGLES),
            np.cos(_STEPS),
            np.sin(_STEPS),
            np.cos(2 * _STEPS),
            np.sin(2 * _STEPS),
        ],
        axis=1,
    )
)


def _best_turns(terms: Float[np.ndarray, "20 s"]) -> Float[np.ndarray, "2 2 s"]:
    """The turn of least loss for each search, exact up to Newton's last step."""
    values = (_GRID @ terms).reshape(2, _ANGLES, -1)
    best = values.reshape(2 * _ANGLES, -1).argmin(axis=0)
    reflected, step = np.divmod(best, _ANGLES)
    here = np.where(reflected == 0, values[0], values[1])
    angles = _refined(_STEPS[step], _FOURIER @ here)
    return _turns(angles, 1.0 - 2.0 * reflected)


def _refined(
    angles: Float[np.ndarray, " s"], series: Float[np.ndarray, "5 s"]
) -> Float[np.ndarray, " s"]:
    """Newton's steps from the best of the grid's angles, each a grid's step at most."""
    _, c1, s1, c2, s2 = series
    for _ in range(_NEWTON):
        c, s = np.cos(angles), np.sin(angles)
        cc, ss = c * c - s * s, 2 * s * c
        slope = s1 * c - c1 * s + 2 * (s2 * cc - c2 * ss)
        bend = -c1 * c - s1 * s - 4 * (c2 * cc + s2 * ss)
        step = np.where(bend > 0, slope / np.where(bend > 0, bend, 1.0), 0.0)
        angles = angles - np.clip(step, -np.pi / _ANGLES, np.pi / _ANGLES)
    return angles
