"""Have the provider train, or take the release of an earlier run from the cache."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeGuard

from core.canonical import canonical
from core.manifest import Manifest
from core.rpc.identity import MODEL_PROVIDER
from core.wire import read_file, write_atomically
from orchestrator.federation import ModelSection, TrainingSection
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Event, Processes
from orchestrator.simulation.sites import TRAINING_SITE, Sites
from orchestrator.simulation.workspace import Workspace

MANIFEST: Final = "manifest.json"
CURVE: Final = "curve.json"
RELEASE_FILES: Final = ("embedding.safetensors", "backbone.safetensors", MANIFEST)


def release_folder(workspace: Workspace, model: ModelSection, number: int = 1) -> Path:
    """Where the provider's release of a model is, the first or a later one."""
    provider = workspace.federation.spiffe(model.provider, MODEL_PROVIDER)
    name = model.name if number == 1 else f"{model.name}-{number}"
    return workspace.folder(provider) / "releases" / name


def obtain_release(
    workspace: Workspace,
    running: Processes,
    model: ModelSection,
    data: Mapping[str, str],
    narrator: Narrator,
    *,
    retrain: bool,
    number: int = 1,
) -> None:
    """Put a trained release into the provider's folder.

    It is the one beside the scenario, that of an earlier run, or a new one.

    Args:
        data: `spec`, what the provider loads, and `digest`, what it holds: a cached
            release is used only for the very same images and recipe.
        number: which of the model's releases it is; no two have the same weights.
    """
    release = release_folder(workspace, model, number)
    cached = _cache() / _recipe_digest(model, data["digest"], number)
    shipped = model.release if number == 1 else None
    if not retrain and _is_tested_on(shipped, data["digest"]):
        _take(shipped, release, model.name)
        narrator.says(
            MODEL_PROVIDER,
            model.provider,
            f"takes the model beside the scenario (train one: --retrain): "
            f"{_described(release)}",
        )
    elif not retrain and _complete(cached):
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
        _train(workspace, running, model, data["spec"], narrator, release=release)
        _remember(release, cached)


def read_manifest(release: Path) -> Manifest:
    """What a release says of itself."""
    return Manifest.from_bytes(read_file(release / MANIFEST))


def _is_tested_on(release: Path | None, digest: str) -> TypeGuard[Path]:
    """Whether there is a release at hand that was tested on these very images."""
    if release is None:
        return False
    lineage = read_manifest(release).lineage
    return bool(lineage.get("data", {}).get("test_digest") == digest)


def _take(source: Path, release: Path, name: str) -> None:
    """Copy a release that everybody has, under the provider's own name for it."""
    manifest = replace(read_manifest(source), name=name, public_embedding=True)
    release.mkdir(mode=0o700, parents=True)
    for file in (*RELEASE_FILES, CURVE):
        write_atomically(release / file, read_file(source / file))
    write_atomically(release / MANIFEST, manifest.to_bytes())


def read_curve(release: Path) -> list[dict[str, Any]]:
    """The training curve that the provider wrote beside the release."""
    curve: list[dict[str, Any]] = json.loads((release / CURVE).read_text())
    return curve


def _train(
    workspace: Workspace,
    running: Processes,
    model: ModelSection,
    spec: str,
    narrator: Narrator,
    *,
    release: Path,
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
                *("--release", str(release)),
                *options,
            ],
            on_event=tell,
        )


def _options(model: ModelSection) -> list[str]:
    """Shape and recipe, as the provider's commands take them."""
    shape, recipe = model.architecture, model.training
    alone = TrainingSection.ALONE if model.federated else ()
    options = {**shape.model_dump(), **recipe.model_dump(exclude=set(alone))}
    if (images := model.images) is not None:
        options |= {"image_size": images.size, "resize": images.resize or 0}
    options["shield"] = model.shield
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
    kept = [point for point in read_curve(release) if point.get("kept", True)]
    accuracy = kept[-1]["accuracy"]
    return f"test accuracy {accuracy:.1%}"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "keymixer" / "releases"


def _recipe_digest(model: ModelSection, data_digest: str, number: int) -> str:
    # What is not used is left out: the name of an earlier release stays as it was.
    unsaid = {part for part in ("federated", "images") if getattr(model, part) is None}
    unsaid |= {"shield"} if model.shield == "none" else set[str]()
    recipe = {
        **model.model_dump(exclude={"provider", "release", *unsaid}),
        "data": data_digest,
    }
    if number > 1:
        recipe["release"] = number
    return hashlib.sha256(canonical(recipe)).hexdigest()[:24]


def _complete(cached: Path) -> bool:
    return all((cached / name).is_file() for name in (*RELEASE_FILES, CURVE))


def _remember(release: Path, cached: Path) -> None:
    # The cache holds plain embeddings, which are as secret as keys.
    cached.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = cached.with_name(f".{cached.name}-{os.getpid()}")
    shutil.copytree(release, fresh)
    shutil.rmtree(cached, ignore_errors=True)
    fresh.replace(cached)
