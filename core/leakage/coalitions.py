"""Who joins forces, and what that opens: every coalition attacks with what it holds.

What the members hold is put together, and three attacks are run on it, each of which
may feed the next:

1. the plain embedding: held, or `W = (W A^T) A` from a key and what is issued for it;
2. keys: held, or from `W` and what is issued for them (`public_embedding`);
3. pictures: opened with the key. Without it, the attack on transformed pictures alone
   (`second_order`, `colour_signs`). Its matrix is an estimate of the key, and gives
   estimates of `W` and of other keys in turn. Who has embeddings issued for several
   keys first carries all pictures over to one (`two_keys`), and attacks them as one.

What an attack lacks is not guessed: the cell then says so. Each result is compared with
the truth, which no attack is given. A public embedding is held by everybody.

Assumes: `members` gave all they have; public pictures, which everybody has.
Costs: three attacks of `second_order` in all; the rest is linear algebra of D x D.
Source: our own; the attacks' are in their files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import combinations
from typing import Any, Final

import numpy as np

from core.errors import DataError
from core.leakage import public_embedding, two_keys
from core.leakage.colour_signs import Colours
from core.leakage.fidelity import Fidelity, Pictures, fidelity
from core.leakage.held import Embedding, Held, KeyName, Matrix
from core.leakage.material import SHOWN
from core.leakage.moments import Blocks
from core.leakage.schemes.block_key import Coordinates
from core.leakage.second_order import Public
from core.leakage.sent_pixels import lift_of, sent_blocks
from core.leakage.subspace import kept_axes

# From this SSIM on a picture counts as recovered: it is recognisable.
RECOGNISABLE: Final = 0.8
# Up to this relative error a key or an embedding counts as recovered; of an unrelated
# orthogonal matrix it is 1.4.
EXACT: Final = 1e-3

HELD: Final = "held"
FROM_KEY: Final = "an issued embedding and its key"
FROM_EMBEDDING: Final = "the plain embedding and the issued one"
CIPHERTEXT_ONLY: Final = "ciphertexts alone"
WITH_KEY: Final = "the key"
NOTHING: Final = "nothing to attack"
# The attack on ciphertexts: starts for each key, and how many pictures choose colours.
STARTS: Final = 4
_FOR_COLOURS: Final = 100


class Member(StrEnum):
    """Who may join forces against one data owner."""

    PROVIDER = "model provider"
    KEY_HOLDER = "key holder"
    SERVER = "inference server"
    OWNER = "another data owner"


@dataclass(frozen=True, slots=True, eq=False)
class Victim:
    """The owner under attack: its pictures, and the truth that no attack is given.

    `pictures` are the first of those whose ciphertexts the server has; `others` are
    the keys of other owners, which a leak might open besides.
    """

    name: KeyName
    pictures: Pictures = field(repr=False)
    key: Matrix = field(repr=False)
    embedding: Embedding = field(repr=False)
    others: Mapping[KeyName, Matrix] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """Pictures; without a ciphertext there is nothing to open, and no fidelity.

    `by_eye`: of ciphertexts alone a picture and its negative, in any of three colour
    axes, are equally likely but for how often colours occur. Whoever looks at all eight
    sees which is the picture. This is the best of the eight; it decides `recovered`.
    """

    recovered: bool
    by: str
    ciphertexts: int
    fidelity: Fidelity | None = None
    by_eye: Fidelity | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Secrets: of `count` of them the largest relative error; None: nothing to go by.

    A mean over tries, where one ciphertext at a time is tried.
    """

    recovered: bool
    by: str
    error: float | None = None
    count: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a coalition recovers; `shown` are some recovered pictures, or none."""

    pictures: Opened
    key: Found
    embedding: Found
    # None: nobody else is left.
    other_keys: Found | None
    shown: Pictures | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Coalition:
    """One row; `leaked` is what it were with one ciphertext more, None: it has some.

    An outsider has no members; `recorded` then says whether it has all ciphertexts.
    """

    members: tuple[Member, ...]
    recorded: bool
    result: Result
    leaked: Result | None


class Eyes:
    """The attack on ciphertexts, with public pictures; the same input is tried once.

    Coalitions that see the same have the same answer.
    """

    def __init__(
        self,
        public: Pictures,
        coordinates: Coordinates,
        rng: np.random.Generator,
        starts: int = STARTS,
    ) -> None:
        blocks = sent_blocks(coordinates, public, rng)
        self._moments = Public(blocks, kept_axes(blocks))
        self._colours = Colours(public, lift_of(coordinates))
        self.coordinates = coordinates
        self._rng = rng
        self._starts = starts
        self._tried: list[tuple[list[Blocks], list[Matrix]]] = []

    def keys(self, tries: Sequence[Blocks]) -> list[Matrix]:
        """Return an estimate of the key behind each of several sets of blocks."""
        for blocks, found in self._tried:
            if len(blocks) == len(tries) and all(
                np.array_equal(one, other)
                for one, other in zip(blocks, tries, strict=True)
            ):
                return found
        guesses = self._moments.attack(tries, self._starts, self._rng)
        found = [
            self._colours.choose(
                guess.matrix, blocks[:_FOR_COLOURS], self.coordinates.pictures
            ).T
            for guess, blocks in zip(guesses, tries, strict=True)
        ]
        self._tried.append((list(tries), found))
        return found

    def look(self, pictures: Pictures, blocks: Blocks, key: Matrix) -> Pictures:
        """Return what an eye would take of the eight that an estimate may stand for."""
        variants = [
            self.coordinates.pictures(blocks @ each.T)
            for each in self._colours.mirrored(key.T)
        ]
        return max(variants, key=lambda each: fidelity(pictures, each).ssim)


def table(
    holdings: Mapping[Member, Held],
    victim: Victim,
    leaked: Sequence[Blocks],
    eyes: Eyes,
    anybody: Held | None = None,
) -> Iterator[Coalition]:
    """Yield the outsider, an outsider with all ciphertexts, and the 15 coalitions.

    Args:
        holdings: what each party's folder holds of the model.
        victim: whose pictures, key and model it is about.
        leaked: ciphertexts of the victim's first pictures, each [1, rows, columns, D].
        eyes: how ciphertexts are attacked.
        anybody: what everybody has, such as a public embedding.

    Raises:
        DataError: nothing is said of what a party holds.
    """
    if missing := [each for each in Member if each not in holdings]:
        raise DataError(f"nothing is said of what the {missing[0]} holds")
    shared = anybody or Held()
    yield _coalition((), shared, victim, leaked, eyes)
    recorded = {
        n: b for n, b in holdings[Member.SERVER].seen.items() if n == victim.name
    }
    outside = Held.together([shared, Held(seen=recorded)])
    yield replace(_coalition((), outside, victim, leaked, eyes), recorded=True)
    own = {name.owner for name in holdings[Member.OWNER].keys}
    for size in range(1, len(Member) + 1):
        for members in combinations(Member, size):
            held = Held.together([shared, *(holdings[each] for each in members)])
            hurt = _without(victim, own) if Member.OWNER in members else victim
            yield _coalition(members, held, hurt, leaked, eyes)


def recover(
    held: Held, victim: Victim, eyes: Eyes, leaked: Sequence[Blocks] = ()
) -> Result:
    """Attack with what is held; with `leaked`, once with each of these ciphertexts."""
    tries = list(leaked) or _pooled(held, victim.name)
    loot = _derived(held)
    loots = [loot]
    if tries and victim.name not in loot.keys:
        loots = [_with_estimate(held, victim.name, a) for a in eyes.keys(tries)]
    count = len(leaked) or len(held.seen.get(victim.name, ()))
    own = [blocks[: 1 if leaked else len(victim.pictures)] for blocks in tries]
    opened, shown = _opened(own, loots, victim, eyes, 1 if leaked else count)
    return Result(
        opened,
        _compared(loots, lambda each: each.keys, {victim.name: victim.key}),
        _compared(loots, lambda each: each.embeddings, {MODEL: victim.embedding}),
        _compared(loots, lambda each: each.keys, victim.others)
        if victim.others
        else None,
        shown,
    )


_Name = KeyName | str
# The one embedding's name, beside keys that have names.
MODEL: Final = "W"


@dataclass(frozen=True, slots=True, eq=False)
class _Loot:
    """What algebra made of what is held; `by` says how."""

    embeddings: Mapping[str, Embedding] = field(repr=False)
    keys: Mapping[KeyName, Matrix] = field(repr=False)
    by: Mapping[_Name, str]


def _derived(held: Held) -> _Loot:
    """The embedding from a key, if it is not held; then keys from the embedding."""
    keys = dict(held.keys)
    by: dict[_Name, str] = dict.fromkeys(keys, HELD)
    plain, how = held.embedding, HELD
    both = sorted(set(held.keys) & set(held.issued))
    if plain is None and both:
        plain = held.issued[both[0]].astype(np.float64) @ held.keys[both[0]]
        how = FROM_KEY
    if plain is None:
        return _Loot({}, keys, by)
    for name in set(held.issued) - set(keys):
        keys[name] = public_embedding.recover_key(plain, held.issued[name])
        by[name] = FROM_EMBEDDING
    by[MODEL] = how
    return _Loot({MODEL: plain}, keys, by)


def _with_estimate(held: Held, name: KeyName, matrix: Matrix) -> _Loot:
    """The same once more, with an estimate of one key: all that is new rests on it."""
    before = _derived(held)
    after = _derived(Held.together([held, Held(keys={name: matrix})]))
    fresh = dict.fromkeys(after.by, CIPHERTEXT_ONLY)
    return _Loot(after.embeddings, after.keys, {**fresh, **before.by})


def _pooled(held: Held, victim: KeyName) -> list[Blocks]:
    """The victim's pictures, and behind them all others that can be carried over."""
    if victim not in held.seen:
        return []
    parts = [held.seen[victim]]
    if victim in held.issued:
        for name in sorted(set(held.seen) & set(held.issued) - {victim}):
            turn = two_keys.relation(held.issued[name], held.issued[victim])
            parts.append(held.seen[name] @ turn.T)
    return [np.concatenate(parts)]


def _opened(
    tries: Sequence[Blocks],
    loots: Sequence[_Loot],
    victim: Victim,
    eyes: Eyes,
    ciphertexts: int,
) -> tuple[Opened, Pictures | None]:
    if not tries:
        return Opened(False, NOTHING, 0), None
    each = loots if len(loots) == len(tries) else [loots[0]] * len(tries)
    keys = [loot.keys[victim.name] for loot in each]
    original = np.array_split(victim.pictures[: sum(map(len, tries))], len(tries))
    recovered = np.concatenate(
        [eyes.coordinates.pictures(b @ a) for b, a in zip(tries, keys, strict=True)]
    )
    measured = fidelity(np.concatenate(original), recovered)
    if each[0].by[victim.name] != CIPHERTEXT_ONLY:
        found = Opened(measured.ssim >= RECOGNISABLE, WITH_KEY, ciphertexts, measured)
        return found, np.clip(recovered[:SHOWN], 0, 1)
    looked = np.concatenate(
        [eyes.look(*parts) for parts in zip(original, tries, keys, strict=True)]
    )
    best = fidelity(np.concatenate(original), looked)
    recognised = best.ssim >= RECOGNISABLE
    opened = Opened(recognised, CIPHERTEXT_ONLY, ciphertexts, measured, best)
    return opened, np.clip(looked[:SHOWN], 0, 1)


def _compared(
    loots: Sequence[_Loot],
    taken: Callable[[_Loot], Mapping[Any, np.ndarray]],
    truth: Mapping[Any, np.ndarray],
) -> Found:
    """The largest error of what was to be found, as a mean over tries."""
    if any(set(truth) - set(taken(loot)) for loot in loots):
        return Found(False, NOTHING, None, len(truth))
    errors = [
        max(_error(taken(loot)[name], true) for name, true in truth.items())
        for loot in loots
    ]
    ways = sorted({loots[0].by[name] for name in truth})
    error = float(np.mean(errors))
    return Found(error <= EXACT, ", ".join(ways), error, len(truth))


def _error(found: np.ndarray, true: np.ndarray) -> float:
    """The Frobenius norm of the difference, over that of the truth."""
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def _without(victim: Victim, owners: AbstractSet[str]) -> Victim:
    """A member's own keys are no others'."""
    others = {n: key for n, key in victim.others.items() if n.owner not in owners}
    return replace(victim, others=others)


def _coalition(
    members: tuple[Member, ...],
    held: Held,
    victim: Victim,
    leaked: Sequence[Blocks],
    eyes: Eyes,
) -> Coalition:
    result = recover(held, victim, eyes)
    if victim.name in held.seen:
        return Coalition(members, False, result, None)
    return Coalition(members, False, result, recover(held, victim, eyes, leaked))
