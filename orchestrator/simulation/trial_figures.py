"""The block `canary` of `report.json`, and what of it ends a run with an error.

`docs/report.md` defines each figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import KeymixerError
from orchestrator.simulation.measure import Answers, Labels, top1_agreement
from orchestrator.simulation.requests import ANSWERED, Request
from orchestrator.simulation.rotation import PROMOTE, SETTLED_MS, Traffic
from orchestrator.simulation.rotation_figures import BIN_S, counted, percentiles
from orchestrator.simulation.trials import (
    Trial,
    asked_too_late_ms,
    largest_difference,
    shared,
    trials,
    while_tried,
)


class TrialBroken(KeymixerError):
    """A release was tried under traffic, and not as it was ordered."""

    hint = "see `canary` in the run's report.json, and the owners' traffic files"


@dataclass(frozen=True, slots=True)
class Tried:
    """What happened, and the true class of each of an owner's images."""

    traffic: Traffic
    labels: Mapping[str, Labels]

    def trial(self, trial: Trial) -> dict[str, Any]:
        """One trial's figures."""
        requests = self.traffic.requests
        tried = {owner: while_tried(requests[owner], trial) for owner in requests}
        both = [request for each in tried.values() for request in each]
        pictures = shared(self.traffic, self.labels, trial)
        same = len(pictures.champion.labels)
        versions = (trial.champion, trial.candidate)
        return {
            "champion": trial.champion,
            "candidate": trial.candidate,
            "ended": _ended(trial),
            "requests": len(both),
            "share_seen": _share(both, trial),
            "asked_too_late_ms": asked_too_late_ms(requests, trial),
            "same_pictures": same,
            "agreement": top1_agreement(*pictures) if same else None,
            "versions": [
                self._version(version, both, answers)
                for version, answers in zip(versions, pictures, strict=True)
            ],
            "owners": [_owner(o, requests[o], tried[o], trial) for o in tried],
        }

    def _version(
        self, version: int, tried: Sequence[Request], answers: Answers
    ) -> dict[str, Any]:
        mine = [request for request in tried if request.model_version == version]
        return {
            "version": version,
            "requests": len(mine),
            "images": sum(request.images for request in mine),
            "accuracy": answers.accuracy if len(answers.labels) else None,
            "plain_accuracy": self._plain_accuracy(version),
            "max_logit_difference": largest_difference(self.traffic, version),
            "latency_ms": percentiles(mine),
        }

    def _plain_accuracy(self, version: int) -> float:
        plain = self.traffic.plain[version]
        owners = [Answers(plain[o], self.labels[o]) for o in self.traffic.requests]
        right = sum(each.accuracy * len(each.labels) for each in owners)
        return right / sum(len(each.labels) for each in owners)


def measure_trials(tried: Tried, share: float) -> dict[str, Any]:
    """The block `canary` of `report.json`; empty if no release was tried.

    Args:
        tried: what happened.
        share: of the requests, how many were to ask the candidate, 0..1.
    """
    found = trials(tried.traffic) if tried.traffic.every() else []
    if not found:
        return {}
    return {
        "share_set": share,
        "trials": [tried.trial(each) for each in found],
        "rate": _rate(tried.traffic),
    }


def require_tried(figures: Mapping[str, Any]) -> None:
    """Raise `TrialBroken` with everything that is not as it was ordered."""
    wrong: list[str] = []
    for trial in figures.get("trials", ()):
        tried = f"version {trial['candidate']}"
        if figures["share_set"]:
            wrong.extend(
                f"{tried} never answered {owner['owner']}"
                for owner in trial["owners"]
                if not owner["answered_by_candidate"]
            )
        if trial["asked_too_late_ms"] > SETTLED_MS:
            late = f"{trial['asked_too_late_ms']:.0f} ms later"
            wrong.append(f"{tried} was {trial['ended']}, and not so {late}")
    if wrong:
        raise TrialBroken("; ".join(wrong))


def _owner(
    owner: str, requests: Sequence[Request], tried: Sequence[Request], trial: Trial
) -> dict[str, Any]:
    by_candidate = sum(
        request.outcome == ANSWERED
        and request.model_version == trial.candidate
        and request.started_ms < trial.end_ms
        for request in requests
    )
    return {
        "owner": owner,
        "requests": len(tried),
        "share_seen": _share(tried, trial),
        "answered_by_candidate": by_candidate,
    }


def _share(requests: Sequence[Request], trial: Trial) -> float | None:
    asked = sum(request.model_version == trial.candidate for request in requests)
    return asked / len(requests) if requests else None


def _ended(trial: Trial) -> str:
    if trial.ended is None:
        return ""
    return "promoted" if trial.ended.action == PROMOTE else "rolled back"


def _rate(traffic: Traffic) -> dict[str, Any]:
    """Answers that arrived in each bin, by the version that gave them."""
    ends: dict[int, list[float]] = {version: [] for version in sorted(traffic.plain)}
    for request in traffic.every():
        if request.outcome == ANSWERED:
            ends.setdefault(request.model_version, []).append(request.ended_ms)
    each = {str(version): counted(times, traffic) for version, times in ends.items()}
    return {"bin_s": BIN_S, "versions": each}
