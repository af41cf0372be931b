"""Have the provider train, or take the release of an earlier run from the cache."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.canonical import canonical
from core.rpc.identity import MODEL_PROVIDER
from orchestrator.federation import ModelSection
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Event, Processes
from orchestrator.simulation.sites import TRAINING_SITE, Sites
from orchestrator.simulation.workspace import Workspace

RELEASE_FILES = ("embedding.safetensors", "backbone.safetensors", "manifest.json")


def release_folder(workspace: Workspace, model: ModelSection) -> Path:
    """Where the provider's release of a model is."""
    provider = workspace.federation.spiffe(model.provider, MODEL_PROVIDER)
    return workspace.folder(provider) / "releases" / model.name


def obtain_release(
    workspace: Workspace,
    running: Processes,
    model: ModelSection,
    data: Mapping[str, str],
    narrator: Narrator,
    *,
    retrain: bool,
) -> None:
    """Put a trained release into the provider's folder.

    Args:
        data: `spec`, what the provider loads, and `digest`, what it holds: a cached
            release is used only for the very same images and recipe.
    """
    release = release_folder(workspace, model)
    cached = _cache() / _recipe_digest(model, data["digest"])
    if not retrain and _complete(cached):
        shutil.copytree(cached, release)
        # This run's provider has a signing key of its own, and signs again.
        (release / "manifest.sig").unlink(missing_ok=True)
        narrator.says(
            MODEL_PROVIDER,
            model.provider,
            f"takes its trained model from the cache (train again: --retrain): "
            f"{_described(release)}",
        )
    else:
        _train(workspace, running, model, data["spec"], narrator)
        _remember(release, cached)


def read_curve(release: Path) -> list[dict[str, Any]]:
    """The training curve that the provider wrote beside the release."""
    curve: list[dict[str, Any]] = json.loads((release / "curve.json").read_text())
    return curve


def _train(
    workspace: Workspace,
    running: Processes,
    model: ModelSection,
    spec: str,
    narrator: Narrator,
) -> None:
    with narrator.bar("training") as bar:

        def tell(event: Event) -> None:
            _show(event, bar, narrator, model.provider)

        options = _options(model)
        if model.federated is not None:
            sites = Sites(workspace, running, narrator, model, model.federated)
            sites.train(spec, options, tell)
            return
        provider = workspace.federation.spiffe(model.provider, MODEL_PROVIDER)
        running.run(
            f"{model.provider}-train",
            MODEL_PROVIDER,
            [
                *("parties.model_provider", "train"),
                *("--folder", str(workspace.folder(provider))),
                *("--name", model.name, "--data", spec, "--progress", "json"),
                *options,
            ],
            on_event=tell,
        )


def _options(model: ModelSection) -> list[str]:
    """Shape and recipe, as the provider's commands take them."""
    shape, recipe = model.architecture, model.training
    options = {**shape.model_dump(), **recipe.model_dump(), "shield": model.shield}
    flip = "--flip" if options.pop("flip") else "--no-flip"
    named = [
        part
        for name, value in options.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    return [*named, flip]


def _show(event: Event, bar: Any, narrator: Narrator, provider: str) -> None:
    if event["event"] == "progress":
        done = (event["epoch"] - 1) * event["steps"] + event["step"]
        total = event["epochs"] * event["steps"]
        bar(
            done, total, f"loss {event['loss']:.3f}, {event['seconds_left']:.0f} s left"
        )
    elif event["event"] == "round":
        told = f"round {event['round']} of {event['rounds']}"
        bar(event["round"], event["rounds"], told)
        for site in event["sites"]:
            right = site["accuracy"]
            seen = "was not there to test" if right is None else f"scores {right:.1%}"
            narrator.says(TRAINING_SITE, site["site"], f"{told}: {seen}")
    elif event["event"] == "epoch":
        narrator.says(
            MODEL_PROVIDER,
            provider,
            f"epoch {event['epoch']}: loss {event['loss']:.3f}, "
            f"test accuracy {event['accuracy']:.1%}",
        )


def _described(release: Path) -> str:
    accuracy = read_curve(release)[-1]["accuracy"]
    return f"test accuracy {accuracy:.1%}"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "keymixer" / "releases"


def _recipe_digest(model: ModelSection, data_digest: str) -> str:
    # What is not used is left out: the name of an earlier release stays as it was.
    unused = {"federated"} if model.federated is None else set[str]()
    unused |= {"shield"} if model.shield == "none" else set[str]()
    recipe = {**model.model_dump(exclude={"provider", *unused}), "data": data_digest}
    return hashlib.sha256(canonical(recipe)).hexdigest()[:24]


def _complete(cached: Path) -> bool:
    return all((cached / name).is_file() for name in (*RELEASE_FILES, "curve.json"))


def _remember(release: Path, cached: Path) -> None:
    # The cache holds plain embeddings, which are as secret as keys.
    cached.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = cached.with_name(f".{cached.name}-{os.getpid()}")
    shutil.copytree(release, fresh)
    shutil.rmtree(cached, ignore_errors=True)
    fresh.replace(cached)
