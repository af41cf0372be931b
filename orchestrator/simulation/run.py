"""`keymixer simulate`: a whole federation on one machine, from training to the report."""

import contextlib
import json
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from core.errors import KeymixerError
from core.rpc.identity import MODEL_PROVIDER, ORCHESTRATOR
from core.wire import write_atomically
from orchestrator.audit.verify import verify_log
from orchestrator.simulation import measure
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import processes
from orchestrator.simulation.report.page import write_page
from orchestrator.simulation.setup import (
    Stage,
    ask_owner,
    bring_up,
    for_each_owner,
    samples_path,
)
from orchestrator.simulation.timeline import play
from orchestrator.simulation.training import read_curve, release_folder
from orchestrator.simulation.versions import versions
from orchestrator.simulation.workspace import (
    Workspace,
    create_workspace,
    point_latest,
)
from orchestrator.simulation.world import write_benchmark


def simulate(
    scenario: Path,
    runs: Path,
    *,
    console: Console,
    data: str | None = None,
    retrain: bool = False,
) -> Path:
    """Run a scenario to its end and return the run's folder with its report.

    Raises:
        KeymixerError: a part of it failed; every process was stopped, and the message
            says where the logs are.
    """
    workspace = create_workspace(runs, scenario)
    narrator = Narrator(console)
    spec = data or workspace.federation.simulation.data
    with running(workspace, narrator, spec) as stage:
        bring_up(stage, retrain=retrain)
        with narrator.phase("inference", "Owners encrypt and ask"):
            ask(stage)
        with narrator.phase("events", "Rotation, revocation, refusals"):
            play(stage)
        with narrator.phase("compare", "Compared with the plain model"):
            compare(stage)
        with narrator.phase("audit", "The audit log, verified"):
            audit(stage)
        with narrator.phase("stop", "The federation stops"):
            stage.running.stop()
            narrator.says("operator", "everyone", "has stopped")
    write_report(stage)
    point_latest(workspace)
    return workspace.root


@contextlib.contextmanager
def running(workspace: Workspace, narrator: Narrator, spec: str) -> Iterator[Stage]:
    """A stage whose processes all end, whatever happens on it."""
    record = workspace.root / "processes.json"
    try:
        with _terminate_like_interrupt(), processes(workspace.logs, record) as group:
            yield Stage(workspace, group, narrator, spec)
    except (KeymixerError, KeyboardInterrupt):
        narrator.console.print(
            f"\nEvery process was stopped. The logs are in {workspace.logs}",
            highlight=False,
        )
        raise


@contextlib.contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """SIGTERM stops the federation as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ask(stage: Stage) -> None:
    """Every owner asks about all its images, and some once more under a wrong key."""
    total = stage.workspace.federation.simulation.images
    done: Counter[str] = Counter()
    with stage.narrator.bar("answers") as bar:

        def one(owner: str) -> Any:
            def progress(event: Any) -> None:
                if event["event"] == "progress":
                    done[owner] = event["done"]
                    bar(done.total(), total)

            return ask_owner(
                stage, owner, "ask", *_images(stage, owner), on_event=progress
            )[-1]

        stage.reports["asked"] = for_each_owner(stage, one)
    for owner, asked in stage.reports["asked"].items():
        stage.narrator.says(
            "data-owner",
            owner,
            f"got {asked['images']:,} answers in {asked['requests']} requests, "
            f"{asked['failed']} failed",
        )
    ask_under_wrong_keys(stage)
    for_each_owner(stage, lambda owner: _samples(stage, owner))
    stage.tell_news()


def ask_under_wrong_keys(stage: Stage) -> None:
    """Each owner asks about some images encrypted with another matrix."""
    scenario = stage.workspace.federation.simulation
    share = scenario.wrong_key_images / scenario.images

    def one(owner: str) -> Any:
        folder = stage.workspace.owner_folder(owner)
        part = stage.dealt.parts[owner] if stage.dealt else range(0)
        return ask_owner(
            stage,
            owner,
            "ask-wrong-key",
            *("--images", str(folder / "images.npz")),
            *("--out", str(folder / "wrong-key.npz")),
            *("--batch", str(scenario.batch)),
            *("--count", str(max(1, round(share * len(part))))),
        )[-1]

    stage.reports["asked_wrong_key"] = for_each_owner(stage, one)


def _images(stage: Stage, owner: str) -> tuple[str, ...]:
    folder = stage.workspace.owner_folder(owner)
    batch = str(stage.workspace.federation.simulation.batch)
    return (
        *("--images", str(folder / "images.npz")),
        *("--out", str(folder / "answers.npz")),
        *("--batch", batch),
    )


def _samples(stage: Stage, owner: str) -> None:
    folder = stage.workspace.owner_folder(owner)
    out = samples_path(stage, owner)
    ask_owner(
        stage,
        owner,
        "samples",
        *("--images", str(folder / "images.npz"), "--out", str(out), "--count", "6"),
    )


def compare(stage: Stage) -> None:
    """Compare the owners' answers with the plain model's, in the provider's process."""
    if stage.data is None or stage.dealt is None:
        raise ValueError("the data comes first")
    provider = stage.workspace.federation.spiffe(stage.model.provider, MODEL_PROVIDER)
    folder = stage.workspace.folder(provider)
    write_benchmark(stage.data, stage.dealt, folder / "benchmark.npz")
    stage.running.run(
        f"{stage.model.provider}-evaluate",
        MODEL_PROVIDER,
        [
            *("parties.model_provider", "evaluate", "--folder", str(folder)),
            *("--release", str(release_folder(stage.workspace, stage.model))),
            *("--images", str(folder / "benchmark.npz")),
            *("--out", str(folder / "plain.npz")),
        ],
    )
    plain = measure.read_answers(folder / "plain.npz")
    keyed = _answers(stage, "answers.npz")
    stage.reports["figures"] = {
        "images": len(keyed.labels),
        "plain_accuracy": plain.accuracy,
        "keyed_accuracy": keyed.accuracy,
        "wrong_key_accuracy": _answers(stage, "wrong-key.npz").accuracy,
        "top1_agreement": measure.top1_agreement(plain, keyed),
        "max_logit_difference": measure.max_logit_difference(plain, keyed),
    }
    figures = stage.reports["figures"]
    stage.narrator.says(
        MODEL_PROVIDER,
        stage.model.provider,
        f"plain {figures['plain_accuracy']:.2%}, keyed {figures['keyed_accuracy']:.2%}, "
        f"wrong key {figures['wrong_key_accuracy']:.2%}; same top class "
        f"{figures['top1_agreement']:.2%}, largest logit difference "
        f"{figures['max_logit_difference']:.1e}",
    )


def _answers(stage: Stage, name: str) -> measure.Answers:
    owners = stage.dealt.parts if stage.dealt else {}
    return measure.together(
        [measure.read_answers(stage.workspace.owner_folder(o) / name) for o in owners]
    )


def audit(stage: Stage) -> None:
    """Recompute the whole log from its stored bodies."""
    with stage.operator() as connected:
        signed = connected.checkpoint()
    database = stage.workspace.server_folder(ORCHESTRATOR) / "registry.db"
    with stage.narrator.bar("records") as bar:
        result = verify_log(database, signed.public_key, on_progress=bar)
    stage.reports["audit"] = {
        "size": result.size,
        "root": result.root.hex(),
        "verified": True,
        "checkpoint": signed.checkpoint.decode(),
        "public_key": signed.public_key.hex(),
        "kinds": _kinds(stage),
    }
    stage.narrator.says(
        ORCHESTRATOR,
        "audit log",
        f"{result.size} records verified, root {result.root.hex()[:16]}...",
    )


def _kinds(stage: Stage) -> dict[str, int]:
    with stage.operator() as connected:
        bodies = (json.loads(entry.body) for entry in connected.entries())
        return dict(Counter(body["kind"] for body in bodies))


def write_report(stage: Stage) -> None:
    """Write `report.json` and the page a person opens."""
    report = build_report(stage)
    root = stage.workspace.root
    write_atomically(root / "report.json", json.dumps(report, indent=2).encode())
    write_page(stage.workspace, report)


def build_report(stage: Stage) -> dict[str, Any]:
    """Everything that was measured, as `docs/report.md` describes it."""
    asked = stage.reports["asked"].values()
    rotation = stage.reports.get("rotation", {})
    return {
        "run": stage.workspace.root.name,
        "federation": stage.workspace.federation.federation,
        "data": stage.data.name if stage.data else stage.data_spec,
        "model": stage.model.name,
        "owners": len(stage.owners),
        **stage.reports["figures"],
        "requests": sum(a["requests"] for a in asked) + rotation.get("requests", 0),
        "failed_requests": sum(a["failed"] for a in asked) + rotation.get("failed", 0),
        "refused": stage.reports.get("refused", {}),
        "rotation": rotation,
        "processes": [
            {"name": p.name, "pid": p.pid, "role": p.role} for p in stage.running.seen
        ],
        "audit": stage.reports["audit"],
        "seconds": {**stage.narrator.seconds, "total": round(stage.narrator.now(), 3)},
        "training": read_curve(release_folder(stage.workspace, stage.model)),
        "story": [asdict(happening) for happening in stage.narrator.story],
        "versions": versions(),
    }
