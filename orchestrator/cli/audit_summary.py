"""What the audit log says in sum: answers, refusals and how long they took."""

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.cli.times import when
from orchestrator.simulation.sentences import short

_MIDDLE: Final = 0.5
_SLOW: Final = 0.95


@dataclass
class Sum:
    """One organisation's traffic with one model; times in milliseconds."""

    images: int = 0
    compute_ms: "array[float]" = field(default_factory=lambda: array("d"))
    # As long as its caller waited; of older records, the time of computing alone.
    latency_ms: "array[float]" = field(default_factory=lambda: array("d"))
    refusals: Counter[str] = field(default_factory=Counter)
    first_ms: int | None = None
    last_ms: int = 0

    def add(self, record: dict[str, Any]) -> None:
        """Count one record: an answer, or a refusal."""
        subject, at_ms = record["subject"], record["time_ms"]
        if record["kind"] == "inference":
            self.images += subject["images"]
            computed_ms = subject["compute_ms"]
            self.compute_ms.append(computed_ms)
            self.latency_ms.append(subject.get("latency_ms", computed_ms))
        else:
            self.refusals[_refusal(subject)] += 1
        self.first_ms = at_ms if self.first_ms is None else min(self.first_ms, at_ms)
        self.last_ms = max(self.last_ms, at_ms)


Sums = dict[tuple[str, str], Sum]


def summed(bodies: Iterable[bytes], *, by_version: bool = False) -> Sums:
    """Sum up answers and refusals, by organisation and model; other kinds not given.

    Args:
        bodies: Of records.
        by_version: Whether `cells:1` and `cells:2` are two.
    """
    found: Sums = {}
    for body in bodies:
        record = json.loads(body)
        group = _group(record["subject"], by_version=by_version)
        found.setdefault(group, Sum()).add(record)
    return dict(sorted(found.items()))


def summary_fields(sums: Sums) -> Iterator[dict[str, Any]]:
    """The sums for a program."""
    for (organisation, model), each in sums.items():
        yield {
            "organisation": organisation,
            "model": model,
            "answered": len(each.compute_ms),
            "images": each.images,
            "refused": each.refusals.total(),
            "refusals": dict(sorted(each.refusals.items())),
            "compute_ms_median": quantile(each.compute_ms, _MIDDLE),
            "compute_ms_p95": quantile(each.compute_ms, _SLOW),
            "latency_ms_median": quantile(each.latency_ms, _MIDDLE),
            "latency_ms_p95": quantile(each.latency_ms, _SLOW),
            "first_ms": each.first_ms,
            "last_ms": each.last_ms,
        }


def summary_row(fields: dict[str, Any]) -> dict[str, Any]:
    """One sum for the eye."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in fields["refusals"].items())
    return {
        **fields,
        "organisation": fields["organisation"] or "nobody",
        "answered": f"{fields['answered']:,}",
        "images": f"{fields['images']:,}",
        "refusals": kinds,
        "median": _milliseconds(fields["latency_ms_median"]),
        "p95": _milliseconds(fields["latency_ms_p95"]),
        "first": when(fields["first_ms"]),
        "last": when(fields["last_ms"]),
    }


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of all values do not exceed.

    That is the nearest rank, a time that was measured; None of no values.
    """
    if not values:
        return None
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _group(subject: dict[str, Any], *, by_version: bool) -> tuple[str, str]:
    """Whose request it was, an owner's or any caller's, and for which model."""
    whose = subject.get("owner") or subject.get("caller", "")
    model, version = str(subject.get("model", "")), subject.get("model_version")
    named = f"{model}:{version}" if by_version and version else model
    return short(whose), named


def _refusal(subject: dict[str, Any]) -> str:
    """Why: of an answer `refusal`, of a call `kind`."""
    return str(subject.get("refusal") or subject.get("kind", "refused"))


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} ms"
