"""Owners ask: about all their images, and about some under a wrong key."""

from collections import Counter
from typing import Any

from orchestrator.simulation.processes import Event
from orchestrator.simulation.setup import Stage, ask_owner, for_each_owner

SAMPLES = 6


def ask(stage: Stage) -> None:
    """Every owner asks about its images, and once more about some under a wrong key."""
    ask_about_all(stage)
    ask_under_wrong_keys(stage)
    for_each_owner(stage, lambda owner: _keep_samples(stage, owner))
    stage.tell_news()


def ask_about_all(stage: Stage) -> None:
    """Every owner encrypts and asks, all at the same time."""
    parts = stage.require_dealt().parts
    done: Counter[str] = Counter()
    with stage.narrator.bar("answers") as bar:

        def one(owner: str) -> Event:
            def progress(event: Event) -> None:
                if event["event"] == "progress":
                    done[owner] = event["done"]
                    bar(done.total(), sum(map(len, parts.values())))

            arguments = _arguments(stage, owner, "answers.npz")
            return ask_owner(stage, owner, "ask", *arguments, on_event=progress)[-1]

        stage.reports["asked"] = for_each_owner(stage, one)
    for owner, asked in stage.reports["asked"].items():
        stage.narrator.says(
            "data-owner",
            owner,
            f"got {asked['images']:,} answers in {asked['requests']} requests, "
            f"{asked['failed']} failed",
        )


def ask_under_wrong_keys(stage: Stage) -> None:
    """Each owner asks about some images encrypted with another matrix."""
    scenario = stage.workspace.federation.simulation
    share = scenario.wrong_key_images / scenario.images

    def one(owner: str) -> Any:
        count = max(1, round(share * len(stage.require_dealt().parts[owner])))
        arguments = _arguments(stage, owner, "wrong-key.npz")
        return ask_owner(
            stage, owner, "ask-wrong-key", *arguments, "--count", str(count)
        )

    for_each_owner(stage, one)


def _keep_samples(stage: Stage, owner: str) -> None:
    folder = stage.workspace.owner_folder(owner)
    ask_owner(
        stage,
        owner,
        "samples",
        *("--images", str(folder / "images.npz")),
        *("--out", str(folder / "samples.npz")),
        *("--count", str(SAMPLES)),
    )


def _arguments(stage: Stage, owner: str, out: str) -> tuple[str, ...]:
    folder = stage.workspace.owner_folder(owner)
    return (
        *("--images", str(folder / "images.npz")),
        *("--out", str(folder / out)),
        *("--batch", str(stage.workspace.federation.simulation.batch)),
    )
