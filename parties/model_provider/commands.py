"""`keymixer train`: a model, alone or over several sites, from the provider's machine.

Nothing heavy is imported before the command runs.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from click.core import ParameterSource

from core.console import EXIT_CODES, print_json, say
from core.datasets.partition import Partition, organisations
from parties.model_provider import options
from parties.model_provider.reporting import emit, reporter, tell_json, tell_people

if TYPE_CHECKING:
    from parties.model_provider.federated.ending import Finished
    from parties.model_provider.federated.plan import FederatedPlan
    from parties.model_provider.federated.training import Tell

app = typer.Typer()


# What says something only of many sites, and what only one who has all images can do.
_OF_SITES: Final = frozenset(
    {"partition", "rounds", "strategy", "proximal_mu", "server_lr", "trim"}
    | {"min_sites", "partition_seed", "optimiser", "admit"}
)
_ALONE: Final = frozenset({"ema", "patience", "validation"})
_EPOCHS: Final = 6
_SITE_EPOCHS: Final = 1


@app.command(epilog=EXIT_CODES)
def train(
    context: typer.Context,
    sites: options.Sites = None,
    *,
    partition: options.How = "iid",
    data: options.Data = "digits",
    image_size: options.ImageSize = "",
    resize: options.Resize = 0,
    folder: options.Folder = Path("provider"),
    name: options.Name = "classifier",
    rounds: options.Rounds = 6,
    epochs: options.AnyEpochs = None,
    strategy: options.Strategy = "fedavg",
    proximal_mu: options.ProximalMu = 0.01,
    server_lr: options.ServerLr = 0.01,
    trim: options.Trim = 0.34,
    min_sites: options.MinSites = 0,
    partition_seed: options.PartitionSeed = 0,
    hidden: options.Hidden = 128,
    depth: options.Depth = 4,
    kernel_size: options.KernelSize = 5,
    patch_size: options.PatchSize = 4,
    batch: options.Batch = 128,
    optimiser: options.Optimiser = "adamw",
    max_lr: options.MaxLr = 0.01,
    weight_decay: options.WeightDecay = 0.01,
    pad: options.Pad = 4,
    flip: options.Flip = True,
    mixup: options.Mixup = 0.0,
    cutmix: options.Cutmix = 0.0,
    label_smoothing: options.LabelSmoothing = 0.0,
    ema: options.Ema = 0.0,
    patience: options.Patience = 0,
    validation: options.Validation = 0.0,
    shield: options.Shield = "none",
    seed: options.Seed = None,
    link: options.Link = "",
    admit: options.Admit = None,
    restart: options.Restart = False,
    progress: options.Progress = "bar",
    json_: options.AsJson = False,
) -> None:
    """Train a model, alone or over several sites with Flower; no image leaves its site.

    With --sites all take their turns in this process; with --link each has a node of
    its own, on a machine of its own: docs/training.md. If it is ended, the same command
    goes on after the last whole epoch, or round.

    Example: keymixer train --sites 3 --data digits --patch-size 2 --pad 1 --no-flip
    """
    many = bool(sites or link or partition == "by-organisation")
    _require_meant(context, _ALONE if many else _OF_SITES, many=many)
    # Read when torch is loaded; see `parties.model_provider.__main__`.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    shared = {
        "name": name,
        "image_size": image_size,
        "resize": resize,
        "shield": shield,
        "hidden": hidden,
        "depth": depth,
        "kernel_size": kernel_size,
        "patch_size": patch_size,
        "batch": batch,
        "max_lr": max_lr,
        "weight_decay": weight_decay,
        "pad": pad,
        "flip": flip,
        "mixup": mixup,
        "cutmix": cutmix,
        "label_smoothing": label_smoothing,
    }
    if many:
        among = {
            "data": data,
            "sites": _count(sites, partition, data, bool(link)),
            "partition": partition,
            "partition_seed": partition_seed,
            "rounds": rounds,
            "strategy": strategy,
            "min_sites": min_sites,
            "proximal_mu": proximal_mu,
            "server_lr": server_lr,
            "trim": trim,
            "epochs": epochs or _SITE_EPOCHS,
            "optimiser": optimiser,
        }
        plan = _federated_plan({**shared, **among}, seed)
        tell = tell_json if progress == "json" else tell_people
        finished = _trained(plan, folder, (link, admit or ()), tell, restart=restart)
        _tell_end(finished, as_json=json_, as_event=progress == "json")
    else:
        alone = {"ema": ema, "patience": patience, "validation": validation}
        chosen = {**shared, **alone, "epochs": epochs or _EPOCHS, "seed": seed}
        where = (data, folder)
        _train_alone(chosen, where, progress, restart=restart, as_json=json_)


def _require_meant(
    context: typer.Context, others: Collection[str], *, many: bool
) -> None:
    """Refuse an option that would say nothing."""
    for name in sorted(others):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            when = "without --sites" if many else "with --sites"
            raise typer.BadParameter(f"--{name.replace('_', '-')}: only {when}")


def _federated_plan(chosen: Mapping[str, Any], seed: int | None) -> "FederatedPlan":
    from parties.model_provider.federated.plan import NO_SEED, FederatedPlan

    return FederatedPlan(**chosen, seed=NO_SEED if seed is None else seed)


def _train_alone(
    chosen: Mapping[str, Any],
    where: tuple[str, Path],
    progress: str,
    *,
    restart: bool,
    as_json: bool,
) -> None:
    from parties.model_provider.alone import plan_of, train_alone

    with reporter(progress) as tell:
        release, path = train_alone(plan_of(**chosen), *where, tell, restart=restart)
    manifest = release.manifest
    if as_json and progress != "json":
        digests = {
            "embedding_digest": manifest.embedding_digest,
            "backbone_digest": manifest.backbone_digest,
        }
        print_json(
            {
                "accuracy": manifest.metrics["test_accuracy"],
                "model": {"name": manifest.name, "release": str(path), **digests},
                "lineage": dict(manifest.lineage),
            }
        )


def _trained(
    plan: "FederatedPlan",
    folder: Path,
    elsewhere: tuple[str, Sequence[Path]],
    tell: "Tell",
    *,
    restart: bool,
) -> "Finished":
    """Over the SuperLink's sites if one is named, and else in this process."""
    link, admitted = elsewhere
    if link:
        from parties.model_provider.federated.deployment import train_deployed

        return train_deployed(plan, folder, link, admitted, tell)
    from parties.model_provider.federated.in_process import train_in_process

    return train_in_process(plan, folder, tell, restart=restart)


def _count(sites: int | None, partition: str, data: str, elsewhere: bool) -> int:
    """How many sites there are; organisations are counted, others must be said."""
    if elsewhere or Partition.parse(partition).kind != "by-organisation":
        if sites is None:
            raise typer.BadParameter("say how many sites: --sites N")
        return sites
    found = organisations(data)
    if sites not in {None, len(found)}:
        raise typer.BadParameter(
            f"--sites {sites}, but there are {len(found)}: {', '.join(found)}"
        )
    return len(found)


def _tell_end(finished: "Finished", *, as_json: bool, as_event: bool) -> None:
    content = finished.told()
    if as_event:
        emit("done", **content)
    elif as_json:
        print_json(content)
    else:
        say(f"{finished.accuracy:.1%} of the sites' test images: {finished.release}")
