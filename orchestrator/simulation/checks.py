"""The referee: keyed answers against plain ones, and the audit log recomputed."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from core.draws import Draw, from_arrays, to_arrays
from core.rpc.identity import MODEL_PROVIDER, OPERATOR, ORCHESTRATOR
from orchestrator.audit.kept import log_of
from orchestrator.audit.verify import verify_log
from orchestrator.leakage.cards import cards_of
from orchestrator.simulation.measure import (
    Answers,
    Labels,
    Logits,
    max_logit_difference,
    read_answers,
    together,
    top1_agreement,
)
from orchestrator.simulation.requests import read_requests
from orchestrator.simulation.rotation import Traffic
from orchestrator.simulation.rotation_figures import measure
from orchestrator.simulation.setup import Stage
from orchestrator.simulation.trial_figures import Tried, measure_trials
from orchestrator.simulation.world import write_benchmark


def compare(stage: Stage) -> None:
    """Compare the owners' answers with the plain model's, in the provider's process.

    They are those of the first release: no other was there when all images were asked.
    """
    _ask_plain(stage)
    plain = _plain_answers(stage, min(stage.releases))
    keyed = _answers(stage, "answers.npz")
    figures = {
        "images": len(keyed.labels),
        "plain_accuracy": plain.accuracy,
        "keyed_accuracy": keyed.accuracy,
        "wrong_key_accuracy": _answers(stage, "wrong-key.npz").accuracy,
        "top1_agreement": top1_agreement(plain, keyed),
        "max_logit_difference": max_logit_difference(plain, keyed),
    }
    stage.reports["figures"] = figures
    stage.narrator.says(MODEL_PROVIDER, stage.model.provider, _sentence(figures))


def judge(stage: Stage) -> None:
    """Measure what changes of keys and models cost the owners; `compare` comes first.

    And, if a release was tried beside another, what that showed.
    """
    if not stage.traffic:
        return
    requests = {
        owner: [request for file in files for request in read_requests(file)]
        for owner, files in stage.traffic.items()
    }
    plain = {version: _plain_by_owner(stage, version) for version in stage.releases}
    traffic = Traffic(requests, stage.orders, plain, stage.log_bodies())
    figures = measure(traffic)
    stage.reports["rotation"] = figures
    stage.narrator.says(OPERATOR, stage.operator_name, _rotation_sentence(figures))
    share = stage.workspace.federation.policies.candidate_share
    canary = measure_trials(Tried(traffic, _labels_by_owner(stage)), share)
    stage.reports["canary"] = canary
    for trial in canary.get("trials", ()):
        stage.narrator.says(OPERATOR, stage.operator_name, _trial_sentence(trial))


def _plain_answers(stage: Stage, version: int) -> Answers:
    return read_answers(_provider_folder(stage) / f"plain-{version}.npz")


def _plain_by_owner(stage: Stage, version: int) -> dict[str, Logits]:
    plain = _plain_answers(stage, version).logits
    parts = stage.require_dealt().parts
    return {owner: plain[part.start : part.stop] for owner, part in parts.items()}


def _labels_by_owner(stage: Stage) -> dict[str, Labels]:
    labels, parts = stage.require_data().labels, stage.require_dealt().parts
    return {owner: labels[part.start : part.stop] for owner, part in parts.items()}


def _ask_plain(stage: Stage) -> None:
    """Have every version of the model asked, each in a process of the provider."""
    folder = _provider_folder(stage)
    benchmark = folder / "benchmark.npz"
    write_benchmark(stage.require_data(), stage.require_dealt(), benchmark)
    drawn = _draws(stage)
    if drawn:
        np.savez(folder / "draws.npz", allow_pickle=False, **to_arrays(drawn))
    for version, release in stage.releases.items():
        stage.running.run(
            f"{stage.model.provider}-evaluate",
            MODEL_PROVIDER,
            [
                *("parties.model_provider", "evaluate", "--folder", str(folder)),
                *("--release", str(release), "--images", str(benchmark)),
                *("--out", str(folder / f"plain-{version}.npz")),
                *(("--draws", str(folder / "draws.npz")) if drawn else ()),
            ],
        )


def _draws(stage: Stage) -> list[Draw]:
    """The noise in the owners' requests, in the order of the images; none: no noise."""
    drawn: list[Draw] = []
    for owner in stage.require_dealt().parts:
        answers = stage.workspace.owner_folder(owner) / "answers.npz"
        with np.load(answers, allow_pickle=False) as file:
            drawn += from_arrays(file)
    return drawn


def _provider_folder(stage: Stage) -> Path:
    provider = stage.workspace.federation.spiffe(stage.model.provider, MODEL_PROVIDER)
    return stage.workspace.folder(provider)


def _answers(stage: Stage, name: str) -> Answers:
    owners = stage.require_dealt().parts
    folder = stage.workspace.owner_folder
    return together([read_answers(folder(owner) / name) for owner in owners])


def _sentence(figures: dict[str, float]) -> str:
    return (
        f"plain {figures['plain_accuracy']:.2%}, "
        f"keyed {figures['keyed_accuracy']:.2%}, "
        f"wrong key {figures['wrong_key_accuracy']:.2%}; same top class "
        f"{figures['top1_agreement']:.2%}, largest logit difference "
        f"{figures['max_logit_difference']:.1e}"
    )


def _rotation_sentence(figures: dict[str, Any]) -> str:
    return (
        f"{figures['rotations']} rotations, {figures['requests_during']:,} requests "
        f"meanwhile, {figures['failed_requests']} failed, "
        f"{figures['misrouted']} misrouted, "
        f"{figures['old_version_served_after_retire']} served by a version that had "
        "ended"
    )


def _trial_sentence(trial: dict[str, Any]) -> str:
    share, same = trial["share_seen"] or 0.0, trial["agreement"] or 0.0
    right = (each["plain_accuracy"] for each in trial["versions"])
    champion, candidate = (f"{each:.1%}" for each in right)
    return (
        f"version {trial['candidate']} was tried beside version {trial['champion']} on "
        f"{share:.1%} of {trial['requests']:,} requests, and "
        f"{trial['ended'] or 'still is'}: {candidate} right against {champion}, "
        f"the same class for {same:.1%} of {trial['same_pictures']} pictures"
    )


def verify_audit(stage: Stage) -> None:
    """Recompute the whole log from its stored bodies."""
    with stage.operator() as connected:
        signed = connected.checkpoint()
    bodies = stage.log_bodies()
    folder = stage.workspace.server_folder(ORCHESTRATOR)
    with log_of(folder) as (log, side_file), stage.narrator.bar("records") as bar:
        result = verify_log(
            log, signed.public_key, on_progress=bar, side_file=side_file
        )
    root = result.root.hex()
    stage.reports["audit"] = {
        "size": result.size,
        "root": root,
        "verified": True,
        "checkpoint": signed.checkpoint.decode(),
        "public_key": signed.public_key.hex(),
        "kinds": _kinds(bodies),
    }
    told = f"its log of {result.size} records is verified, root {root[:16]}..."
    keeper = stage.workspace.federation.only(ORCHESTRATOR)
    stage.narrator.says(ORCHESTRATOR, keeper.organisation, told)


def note_leakage(stage: Stage) -> None:
    """Keep the leakage card of every issued model, as it is when all was asked."""
    rules = stage.workspace.federation.policies.leakage
    with stage.operator() as connected:
        issued, models = connected.issued(), connected.models()
    cards = cards_of(issued, models, rules)
    stage.reports["leakage"] = [
        {
            "key_id": one.key_id,
            "key_version": one.key_version,
            "model": one.model,
            "model_version": one.model_version,
            "state": one.state,
            **card,
        }
        for one, card in zip(issued, cards, strict=True)
        if card is not None
    ]


def _kinds(bodies: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(body["kind"] for body in bodies))
