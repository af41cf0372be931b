"""`report.json`: everything that was measured, as `docs/report.md` describes it."""

from dataclasses import asdict
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from orchestrator.simulation.report.versions import versions
from orchestrator.simulation.setup import Stage
from orchestrator.simulation.training import read_curve, read_manifest, release_folder


def build_report(stage: Stage) -> dict[str, Any]:
    """Put together what the phases left on the stage."""
    release = release_folder(stage.workspace, stage.model)
    return {
        "run": stage.workspace.root.name,
        "started": _started(stage),
        "federation": stage.workspace.federation.federation,
        "data": stage.require_data().name,
        "model": stage.model.name,
        "owners": len(stage.owners),
        **stage.reports["figures"],
        **_requests(stage),
        "refused": stage.reports.get("refused", {}),
        "rotation": stage.reports.get("rotation", {}),
        "canary": stage.reports.get("canary", {}),
        "processes": [
            {"name": p.name, "pid": p.pid, "role": p.role} for p in stage.running.seen
        ],
        "audit": stage.reports["audit"],
        "seconds": {**stage.narrator.seconds, "total": round(stage.narrator.now(), 3)},
        "training": read_curve(release),
        "leakage": stage.reports["leakage"],
        "public_embedding": read_manifest(release).public_embedding,
        "story": sorted(map(asdict, stage.narrator.story), key=itemgetter("at_s")),
        "versions": versions(),
    }


def _started(stage: Stage) -> str:
    moment = datetime.fromtimestamp(stage.narrator.epoch_s, tz=UTC)
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _requests(stage: Stage) -> dict[str, int]:
    """Requests of owners in good standing, those while keys changed included."""
    asked = list(stage.reports["asked"].values())
    rotation = stage.reports.get("rotation", {})
    rightly_refused = rotation.get("refused_requests", 0)
    return {
        "requests": sum(one["requests"] for one in asked)
        + rotation.get("requests", 0)
        - rightly_refused,
        "failed_requests": sum(one["failed"] for one in asked)
        + rotation.get("failed_requests", 0),
    }
