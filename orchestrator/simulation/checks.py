"""The referee: keyed answers against plain ones, and the audit log recomputed."""

import json
from collections import Counter
from typing import Any

from core.rpc.identity import MODEL_PROVIDER, ORCHESTRATOR
from orchestrator.audit.verify import verify_log
from orchestrator.simulation.measure import (
    Answers,
    max_logit_difference,
    read_answers,
    together,
    top1_agreement,
)
from orchestrator.simulation.setup import Stage
from orchestrator.simulation.training import release_folder
from orchestrator.simulation.world import write_benchmark


def compare(stage: Stage) -> None:
    """Compare the owners' answers with the plain model's, in the provider's process."""
    plain = _plain_answers(stage)
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


def _plain_answers(stage: Stage) -> Answers:
    provider = stage.workspace.federation.spiffe(stage.model.provider, MODEL_PROVIDER)
    folder = stage.workspace.folder(provider)
    benchmark, plain = folder / "benchmark.npz", folder / "plain.npz"
    write_benchmark(stage.require_data(), stage.require_dealt(), benchmark)
    stage.running.run(
        f"{stage.model.provider}-evaluate",
        MODEL_PROVIDER,
        [
            *("parties.model_provider", "evaluate", "--folder", str(folder)),
            *("--release", str(release_folder(stage.workspace, stage.model))),
            *("--images", str(benchmark), "--out", str(plain)),
        ],
    )
    return read_answers(plain)


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


def verify_audit(stage: Stage) -> None:
    """Recompute the whole log from its stored bodies."""
    with stage.operator() as connected:
        signed = connected.checkpoint()
        bodies = [json.loads(entry.body) for entry in connected.entries()]
    database = stage.workspace.server_folder(ORCHESTRATOR) / "registry.db"
    with stage.narrator.bar("records") as bar:
        result = verify_log(database, signed.public_key, on_progress=bar)
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


def _kinds(bodies: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(body["kind"] for body in bodies))
