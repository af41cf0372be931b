"""The block `rotation` of `report.json`, and the figures in it that must be zero.

`docs/report.md` defines each of them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from core.errors import KeymixerError
from orchestrator.registry.lifecycle import KeyState
from orchestrator.simulation.lives import (
    Life,
    Succession,
    between,
    lives,
    successions,
)
from orchestrator.simulation.requests import (
    ANSWERED,
    FAILED,
    REFUSED,
    Request,
    overlapping,
)
from orchestrator.simulation.rotation import (
    REVOKE,
    SETTLED_MS,
    Order,
    Traffic,
    barred,
    failures,
    misrouted,
    refusals_of,
    served_after_end,
    unrecorded,
)

# The request rate is counted in bins of this length.
BIN_S: Final = 0.5
# Figures that a rotation without fault has at zero.
_ZERO: Final = (
    "failed_requests",
    "misrouted",
    "unrecorded",
    "old_version_served_after_retire",
)


class RotationBroken(KeymixerError):
    """Keys or models changed under traffic, and something happened that never may."""

    hint = "see `rotation` in the run's report.json, and the owners' traffic files"


def measure(traffic: Traffic) -> dict[str, Any]:
    """The block `rotation` of `report.json`; empty if nobody asked."""
    if not traffic.every():
        return {}
    begin_ms = traffic.begin_ms
    found = lives(traffic.bodies)
    rotations = successions(found, begin_ms)
    refusals = [r for owner in traffic.requests for r in refusals_of(traffic, owner)]
    revoked = [refusal for refusal in refusals if refusal.action == REVOKE]
    failed = {owner: failures(traffic, owner) for owner in traffic.requests}
    during = requests_during(traffic, found)
    return {
        "rotations": len(rotations),
        "rotations_ordered": sum(order.rotations for order in traffic.orders),
        "requests": len(traffic.every()),
        "requests_during": len(during),
        "failed_requests": sum(map(len, failed.values())),
        "refused_requests": _rightly_refused(traffic, failed),
        "misrouted": sum(misrouted(traffic, owner) for owner in traffic.requests),
        "unrecorded": sum(unrecorded(traffic, owner) for owner in traffic.requests),
        "refused_after_revoke_ms": _latest([r.refused_ms for r in revoked]),
        "answered_after_revoke_ms": _latest([r.answered_ms for r in revoked]),
        "old_version_served_after_retire": len(served_after_end(traffic.bodies)),
        "destroyed": sum(_destroyed(life, traffic) for life in found),
        "failures": dict(Counter(r.kind for each in failed.values() for r in each)),
        "latency_ms": _latencies(traffic, rotations),
        "refusals": [asdict(refusal) for refusal in refusals],
        "owners": [_of_owner(traffic, owner, failed[owner]) for owner in failed],
        "seconds": round((traffic.end_ms - begin_ms) / 1000, 3),
        "orders": [_drawn_order(order, begin_ms) for order in traffic.orders],
        "lives": [_drawn_life(life, traffic) for life in found if _seen(life, traffic)],
        "rate": _rate(traffic),
    }


def require_unbroken(figures: Mapping[str, Any]) -> None:
    """Raise `RotationBroken` with every figure that is not what it must be."""
    if not figures:
        return
    wrong = [f"{name} is {figures[name]}, not 0" for name in _ZERO if figures[name]]
    # A policy may have ordered more.
    if figures["rotations"] < figures["rotations_ordered"]:
        wrong.append(
            f"{figures['rotations']} of {figures['rotations_ordered']} rotations"
            " reached the owners"
        )
    for refusal in figures["refusals"]:
        if refusal["refused_ms"] is None:
            wrong.append(f"{refusal['owner']} was not refused: {refusal['action']}")
        if refusal["answered_ms"] > SETTLED_MS:
            late = f"{refusal['answered_ms']:.0f} ms after {refusal['action']}"
            wrong.append(f"{refusal['owner']} was answered {late}")
    if wrong:
        raise RotationBroken("; ".join(wrong))


def requests_during(traffic: Traffic, found: Sequence[Life]) -> list[Request]:
    """The requests begun between the first order and the last change of a key."""
    if not traffic.orders:
        return []
    first = min(order.called_ms for order in traffic.orders)
    last = max(stay.from_ms for life in found for stay in life.stays)
    return [r for r in traffic.every() if first <= r.started_ms <= last]


def percentiles(requests: Sequence[Request]) -> dict[str, Any]:
    """How many they are, and how long half and 99 % of them took at most, in ms."""
    times = [request.milliseconds for request in requests]
    p50, p99 = np.percentile(times, (50, 99)).tolist() if times else (None, None)
    return {"requests": len(times), "p50": _rounded(p50), "p99": _rounded(p99)}


def counted(ends_ms: Sequence[float], traffic: Traffic) -> list[int]:
    """How many of these moments lie in each bin of the time in which owners asked."""
    begin = traffic.begin_ms
    bins = int(_seconds(traffic.end_ms, begin) / BIN_S) + 1
    numbers = [int(_seconds(end, begin) / BIN_S) for end in ends_ms]
    found: list[int] = np.bincount(np.array(numbers, np.int64), minlength=bins).tolist()
    return found


def _rightly_refused(traffic: Traffic, failed: Mapping[str, Sequence[Request]]) -> int:
    refused = [r for r in traffic.every() if r.outcome == REFUSED]
    wrongly = {r for each in failed.values() for r in each}
    return sum(request not in wrongly for request in refused)


def _latest(times: Sequence[float | None]) -> float | None:
    """The largest; None if there is none, or one of them never came."""
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None


def _destroyed(life: Life, traffic: Traffic) -> bool:
    last = life.stays[-1]
    meanwhile = traffic.begin_ms <= last.from_ms <= traffic.end_ms
    return last.state == KeyState.DESTROYED and meanwhile


def _latencies(traffic: Traffic, rotations: Sequence[Succession]) -> dict[str, Any]:
    """Of answered requests: those that overlap with a rotation, and the others."""
    answered = [r for r in traffic.every() if r.outcome == ANSWERED]
    spans = [(r.begin_ms, r.end_ms or traffic.end_ms) for r in rotations]
    within = {r for span in spans for r in overlapping(answered, *span)}
    return {
        "during": percentiles([r for r in answered if r in within]),
        "outside": percentiles([r for r in answered if r not in within]),
    }


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)


def _of_owner(
    traffic: Traffic, owner: str, failed: Sequence[Request]
) -> dict[str, Any]:
    requests = traffic.requests[owner]
    outcomes = Counter(request.outcome for request in requests)
    answered = [request for request in requests if request.outcome == ANSWERED]
    return {
        "owner": owner,
        "requests": len(requests),
        "answered": outcomes[ANSWERED],
        "refused": outcomes[REFUSED],
        "failed": len(failed),
        # Answered by the successor after the version they were made with was refused.
        "sent_again": sum(request.sent > 1 for request in answered),
        "key_versions": sorted({request.key_version for request in answered}),
        "barred": [time.action for time in barred(traffic, owner)],
        "latency_ms": percentiles(answered),
    }


def _seen(life: Life, traffic: Traffic) -> bool:
    """Whether it has something to show while owners asked."""
    shown = between(life, traffic.begin_ms, traffic.end_ms)
    return life.owner in traffic.requests and any(
        stay.state != KeyState.DESTROYED for stay in shown
    )


def _drawn_life(life: Life, traffic: Traffic) -> dict[str, Any]:
    begin = traffic.begin_ms
    return {
        "owner": life.owner,
        "key_id": life.name.key_id,
        "version": life.name.version,
        "stays": [
            {
                "state": str(stay.state),
                "from_s": _seconds(stay.from_ms, begin),
                "to_s": _seconds(stay.to_ms or traffic.end_ms, begin),
            }
            for stay in between(life, begin, traffic.end_ms)
        ],
    }


def _drawn_order(order: Order, begin_ms: float) -> dict[str, Any]:
    return {
        "at_s": _seconds(order.called_ms, begin_ms),
        "action": order.action,
        "owner": order.owner,
        "version": order.version,
    }


def _rate(traffic: Traffic) -> dict[str, Any]:
    """Requests that ended in each bin, by outcome."""
    ends = {
        outcome: [r.ended_ms for r in traffic.every() if r.outcome == outcome]
        for outcome in (ANSWERED, REFUSED, FAILED)
    }
    each = {outcome: counted(ends[outcome], traffic) for outcome in ends}
    return {"bin_s": BIN_S, **each}


def _seconds(at_ms: float, begin_ms: float) -> float:
    return round((at_ms - begin_ms) / 1000, 3)
