"""What a change of keys or models costs requests under way, told by three witnesses.

What the owners wrote down of every request, what the operator ordered and when, and the
audit log, whose own order says which version was in use when an answer was recorded.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import numpy as np

from orchestrator.registry.lifecycle import USABLE, KeyState
from orchestrator.simulation.lives import (
    Body,
    VersionName,
    organisation,
    state_said,
    version_named,
)
from orchestrator.simulation.measure import Logits
from orchestrator.simulation.requests import (
    ANSWERED,
    FAILED,
    REFUSED,
    Released,
    Request,
    overlapping,
)

Requests = Mapping[str, Sequence[Request]]

# Largest difference to the plain model's logits: hundreds of times float32's rounding,
# and far less than the answers to two different pictures differ.
TOLERANCE: Final = 1e-3
# A change of a key has reached everybody this long after it was acknowledged.
SETTLED_MS: Final = 1000.0

ROTATE, SUSPEND, RESUME, REVOKE = "rotate", "suspend", "resume", "revoke"
RELEASE, PROMOTE, ROLL_BACK = "release", "promote", "roll back"
_BARS: Final = frozenset({SUSPEND, REVOKE})


@dataclass(frozen=True, slots=True)
class Order:
    """What the operator ordered; times in milliseconds since the epoch.

    `owner` is empty for an order about all owners; `rotations` is how many keys it had
    rotated; `version` the model's that it is about, 0 if it is about keys.
    """

    action: str
    owner: str
    called_ms: float
    acknowledged_ms: float
    rotations: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Everything the figures come from.

    `plain` holds each model version's own logits for each owner's images.
    """

    requests: Requests
    orders: Sequence[Order]
    plain: Mapping[int, Mapping[str, Logits]] = field(repr=False)
    bodies: Sequence[Body] = field(repr=False)

    @property
    def begin_ms(self) -> float:
        """When the first request began."""
        return min(r.started_ms for r in self.every())

    @property
    def end_ms(self) -> float:
        """When the last request ended."""
        return max(r.ended_ms for r in self.every())

    def every(self) -> list[Request]:
        """All requests, owner by owner."""
        return list(chain.from_iterable(self.requests.values()))


@dataclass(frozen=True, slots=True)
class Barred:
    """A time in which an owner has no right to an answer, and why."""

    action: str
    order: Order
    # When the operator took it back, and since when everybody knows.
    resumed_ms: float = float("inf")
    settled_ms: float = float("inf")


@dataclass(frozen=True, slots=True)
class Refusal:
    """How soon an owner was refused, in milliseconds after the acknowledgement.

    `answered_ms`: until the last answer that still arrived; 0: none did. `refused_ms`:
    until the first refusal that no answer followed; None: there was none.
    """

    owner: str
    action: str
    answered_ms: float
    refused_ms: float | None


def barred(traffic: Traffic, owner: str) -> list[Barred]:
    """The times in which an owner had no right to an answer, by the orders given."""
    orders = [order for order in traffic.orders if order.owner == owner]
    found = []
    for number, order in enumerate(orders):
        if order.action in _BARS:
            later = (o for o in orders[number + 1 :] if o.action == RESUME)
            found.append(_barred(order, next(later, None)))
    return found


def failures(traffic: Traffic, owner: str) -> list[Request]:
    """The requests that an owner in good standing has no answer to.

    A refusal is one unless some part of the request was in a time in which the owner
    was barred; what failed without a refusal always is one.
    """
    requests = traffic.requests[owner]
    excused: set[Request] = set()
    for time in barred(traffic, owner):
        excused |= {*overlapping(requests, time.order.called_ms, time.settled_ms)}
    return [
        request
        for request in requests
        if request.outcome == FAILED
        or (request.outcome == REFUSED and request not in excused)
    ]


def misrouted(traffic: Traffic, owner: str) -> int:
    """How many answers are not those of the plain model that is said to have answered.

    For the very images asked about.
    """
    return sum(
        not _same(plain_answer(traffic, owner, request), request.logits)
        for request in traffic.requests[owner]
        if request.outcome == ANSWERED
    )


def plain_answer(traffic: Traffic, owner: str, request: Request) -> Logits:
    """What the plain model of the version that answered says; nothing if none is it."""
    rows = slice(request.first, request.first + request.images)
    plain = traffic.plain.get(request.model_version)
    return request.logits[:0] if plain is None else plain[owner][rows]


def unrecorded(traffic: Traffic, owner: str) -> int:
    """How many answers the log does not hold, each once, where they say it does."""
    recorded = Counter(
        Released(
            body["index"],
            body["subject"]["request_id"],
            body["subject"]["key_version"],
            body["subject"]["model_version"],
        )
        for body in traffic.bodies
        if body["kind"] == "inference"
        and organisation(body["subject"]["owner"]) == owner
    )
    released = Counter(
        released for request in traffic.requests[owner] for released in request.released
    )
    without = sum(
        not request.released
        for request in traffic.requests[owner]
        if request.outcome == ANSWERED
    )
    return (released - recorded).total() + without


def served_after_end(bodies: Iterable[Body]) -> list[int]:
    """Indices of answers recorded under a version that the log says was not in use.

    In use is what is active, or retiring before the moment that its record names.
    """
    states: dict[VersionName, KeyState] = {}
    refused_from: dict[VersionName, float] = {}
    found = []
    for body in bodies:
        name, state = version_named(body), state_said(body)
        if name is None:
            continue
        if state is not None:
            states[name] = state
            if "retire_at_ms" in body["subject"]:
                refused_from[name] = body["subject"]["retire_at_ms"]
        elif body["kind"] == "inference":
            over = states.get(name) == KeyState.RETIRING and (
                body["time_ms"] >= refused_from.get(name, float("inf"))
            )
            if over or states.get(name) not in USABLE:
                found.append(body["index"])
    return found


def refusals_of(traffic: Traffic, owner: str) -> list[Refusal]:
    """How soon an owner was refused, for each time it was barred."""
    return [_refusal(traffic.requests[owner], owner, t) for t in barred(traffic, owner)]


def _barred(order: Order, resumed: Order | None) -> Barred:
    if resumed is None or order.action == REVOKE:
        return Barred(order.action, order)
    settled = resumed.acknowledged_ms + SETTLED_MS
    return Barred(order.action, order, resumed.called_ms, settled)


def _refusal(requests: Sequence[Request], owner: str, time: Barred) -> Refusal:
    since = time.order.acknowledged_ms
    inside = [r for r in requests if since < r.ended_ms <= time.resumed_ms]
    answers = [r.ended_ms for r in inside if r.outcome == ANSWERED]
    last = max(answers, default=since)
    after = [r.ended_ms for r in inside if r.outcome == REFUSED and r.ended_ms > last]
    refused = round(min(after) - since, 1) if after else None
    return Refusal(owner, time.action, round(last - since, 1), refused)


def _same(plain: Logits, got: Logits) -> bool:
    """The same classes, and logits as near as float32 allows; NaN is near nothing."""
    return (
        plain.shape == got.shape
        and bool((np.abs(plain - got) <= TOLERANCE).all())
        and bool((plain.argmax(axis=1) == got.argmax(axis=1)).all())
    )
