"""What it showed to try a release on a share of the requests, version by version.

The evidence is that of `rotation`: what owners wrote down, what was ordered and when,
and each version's plain model. What a trial may not cost is measured there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple

import numpy as np

from orchestrator.simulation.measure import Answers, Labels, Logits
from orchestrator.simulation.requests import ANSWERED, Request
from orchestrator.simulation.rotation import (
    PROMOTE,
    RELEASE,
    ROLL_BACK,
    Order,
    Requests,
    Traffic,
    plain_answer,
)

_ENDS: Final = frozenset({PROMOTE, ROLL_BACK})


@dataclass(frozen=True, slots=True)
class Trial:
    """A release that a share of the requests asked, beside the champion.

    `ended` is the order that ended it; None: it went on.
    """

    champion: int
    candidate: int
    ended: Order | None

    @property
    def end_ms(self) -> float:
        """Requests that begin from now on may know that it has ended."""
        return float("inf") if self.ended is None else self.ended.called_ms

    @property
    def outdated(self) -> int:
        """The version that nothing asks any more once it has ended."""
        promoted = self.ended is not None and self.ended.action == PROMOTE
        return self.champion if promoted else self.candidate


class Shared(NamedTuple):
    """What two versions answered to the very same pictures, in the same order."""

    champion: Answers
    candidate: Answers


def trials(traffic: Traffic) -> list[Trial]:
    """The trials that were ordered, one after the other.

    The first champion is the oldest version that there is.
    """
    champion, found = min(traffic.plain), []
    for number, order in enumerate(traffic.orders):
        if order.action != RELEASE:
            continue
        later = (o for o in traffic.orders[number + 1 :] if o.action in _ENDS)
        trial = Trial(champion, order.version, next(later, None))
        found.append(trial)
        if trial.outdated == champion:
            champion = trial.candidate
    return found


def while_tried(requests: Sequence[Request], trial: Trial) -> list[Request]:
    """An owner's answered requests for which there was a choice, for certain.

    They begin after its first answer by the candidate, which is left out: counted with
    it, a share would be too large. Those that begin once the end was ordered are none.
    """
    answered = [r for r in requests if r.outcome == ANSWERED]
    asked = (n for n, r in enumerate(answered) if r.model_version == trial.candidate)
    first = next(asked, len(answered))
    return [r for r in answered[first + 1 :] if r.started_ms < trial.end_ms]


def asked_too_late_ms(requests: Requests, trial: Trial) -> float:
    """How long after the end's acknowledgement the outdated version was still asked.

    By when such a request began; 0: none did.
    """
    if trial.ended is None:
        return 0.0
    begun = (
        request.started_ms - trial.ended.acknowledged_ms
        for request in chain.from_iterable(requests.values())
        if request.model_version == trial.outdated
    )
    return round(max(0.0, max(begun, default=0.0)), 1)


def shared(traffic: Traffic, labels: Mapping[str, Labels], trial: Trial) -> Shared:
    """The pictures that both versions were asked about, by the same owners."""
    one, other, true = [], [], []
    for owner, requests in traffic.requests.items():
        mine = _by_picture(requests, trial.champion)
        its = _by_picture(requests, trial.candidate)
        for picture in sorted(mine.keys() & its.keys()):
            one.append(mine[picture])
            other.append(its[picture])
            true.append(labels[owner][picture])
    known = np.array(true, np.int64)
    return Shared(Answers(_stacked(one), known), Answers(_stacked(other), known))


def largest_difference(traffic: Traffic, version: int) -> float | None:
    """Of a logit, between a version's keyed answers and its plain model's.

    None: it answered nothing.
    """
    found = [
        np.abs(plain_answer(traffic, owner, request) - request.logits).max()
        for owner, requests in traffic.requests.items()
        for request in requests
        if request.outcome == ANSWERED and request.model_version == version
    ]
    return float(max(found)) if found else None


def _by_picture(requests: Sequence[Request], version: int) -> dict[int, Logits]:
    """The newest answer of a version to each of an owner's pictures, by its number."""
    return {
        request.first + row: logits
        for request in requests
        if request.outcome == ANSWERED and request.model_version == version
        for row, logits in enumerate(request.logits)
    }


def _stacked(rows: Sequence[Logits]) -> Logits:
    return np.stack(rows) if rows else np.zeros((0, 1), np.float32)
