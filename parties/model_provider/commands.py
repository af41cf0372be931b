"""`keymixer train`: one model over several sites, from the provider's own machine.

Nothing heavy is imported before the command runs.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from core.console import EXIT_CODES, print_json, say
from core.datasets.partition import Partition, organisations
from parties.model_provider.reporting import emit, tell_json, tell_people

if TYPE_CHECKING:
    from parties.model_provider.federated.ending import Finished

app = typer.Typer()

Sites = Annotated[
    int | None,
    typer.Option(
        "--sites", min=2, help="How many; by-organisation: as many as there are."
    ),
]
How = Annotated[
    str,
    typer.Option(
        "--partition",
        help="How images are dealt out: iid, dirichlet:ALPHA, or by-organisation, for "
        "which --data is a folder with a subfolder or .npz for each organisation.",
    ),
]
ShieldSpec = Annotated[
    str,
    typer.Option(
        "--shield",
        help="What owners do to each block before the key: none, highpass:K or "
        "noise:SIGMA; docs/shields.md has what it costs.",
    ),
]
Strategy = Literal["fedavg", "fedprox", "fedadam", "fedmedian", "fedtrimmedavg"]


@app.command(epilog=EXIT_CODES)
def train(
    sites: Sites = None,
    *,
    partition: How = "iid",
    data: Annotated[
        str, typer.Option(help="cifar10, digits, a folder, or an .npz.")
    ] = "digits",
    folder: Annotated[
        Path, typer.Option(help="The provider's own folder; it gets the release.")
    ] = Path("provider"),
    name: Annotated[str, typer.Option(help="The model's name.")] = "classifier",
    rounds: Annotated[int, typer.Option(min=1)] = 6,
    epochs: Annotated[int, typer.Option(min=1, help="Of a site, in each round.")] = 1,
    strategy: Annotated[
        Strategy, typer.Option(help="How the sites' answers become one model.")
    ] = "fedavg",
    proximal_mu: Annotated[
        float, typer.Option(help="fedprox: what it costs a site to go far.")
    ] = 0.01,
    server_lr: Annotated[
        float, typer.Option(help="fedadam: the server's learning rate.")
    ] = 0.01,
    trim: Annotated[
        float, typer.Option(help="fedtrimmedavg: the share left out at each end.")
    ] = 0.34,
    min_sites: Annotated[
        int, typer.Option(help="How many must be there for a round; 0: all.")
    ] = 0,
    partition_seed: Annotated[
        int, typer.Option(help="Which of all such partitions.")
    ] = 0,
    hidden: int = 128,
    depth: int = 4,
    kernel_size: int = 5,
    patch_size: int = 4,
    batch: int = 128,
    optimiser: Literal["adamw", "sgd"] = "adamw",
    max_lr: float = 0.01,
    weight_decay: float = 0.01,
    pad: int = 4,
    flip: bool = True,
    shield: ShieldSpec = "none",
    seed: Annotated[
        int | None,
        typer.Option(
            help="For experiments only: who knows the seed and the data can train the"
            " same secret embedding. Default: the operating system's entropy."
        ),
    ] = None,
    link: Annotated[
        str,
        typer.Option(help="A SuperLink's HOST:PORT; sites with nodes of their own."),
    ] = "",
    admit: Annotated[
        list[Path] | None,
        typer.Option(help="With --link: a site's certificate; its node is let in."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, not after the last round.")
    ] = False,
    progress: Annotated[
        Literal["bar", "json"], typer.Option(help="json: an event a line.")
    ] = "bar",
    json_: Annotated[
        bool, typer.Option("--json", help="Print JSON for programs.")
    ] = False,
) -> None:
    """Train one model over several sites with Flower; no image leaves its site.

    All sites take their turns in this process, or with --link each has a node of its
    own, on a machine of its own: docs/training.md. If it is ended, the same command
    goes on after the last whole round.

    Example: keymixer train --sites 3 --data digits --patch-size 2 --pad 1 --no-flip
    """
    # Read when torch is loaded; see `parties.model_provider.__main__`.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from parties.model_provider.federated.plan import NO_SEED, FederatedPlan

    plan = FederatedPlan(
        name=name,
        data=data,
        sites=_count(sites, partition, data, bool(link)),
        partition=partition,
        partition_seed=partition_seed,
        rounds=rounds,
        strategy=strategy,
        min_sites=min_sites,
        proximal_mu=proximal_mu,
        server_lr=server_lr,
        trim=trim,
        hidden=hidden,
        depth=depth,
        kernel_size=kernel_size,
        patch_size=patch_size,
        epochs=epochs,
        batch=batch,
        optimiser=optimiser,
        max_lr=max_lr,
        weight_decay=weight_decay,
        pad=pad,
        flip=flip,
        seed=NO_SEED if seed is None else seed,
        shield=shield,
    )
    tell = tell_json if progress == "json" else tell_people
    if link:
        from parties.model_provider.federated.deployment import train_deployed

        finished = train_deployed(plan, folder, link, admit or (), tell)
    else:
        from parties.model_provider.federated.in_process import train_in_process

        finished = train_in_process(plan, folder, tell, restart=restart)
    _tell_end(finished, as_json=json_, as_event=progress == "json")


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
