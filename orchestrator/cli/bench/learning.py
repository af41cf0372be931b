"""What training costs and gives: under shields and schemes, and over several sites."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from core.console import print_facts, print_rows
from orchestrator.cli.bench.showing import Figure, Keep, machine_of, measured, show
from orchestrator.cli.options import AsJson

Data = Annotated[
    str, typer.Option("--data", help="cifar10, digits, a folder, or an .npz.")
]
Images = Annotated[
    int, typer.Option("--images", min=2, help="Of the training set, the first.")
]
Epochs = Annotated[int, typer.Option("--epochs", min=1)]
Hidden = Annotated[
    int, typer.Option("--hidden", min=1, help="The width of the model's tokens.")
]
Patch = Annotated[
    int, typer.Option("--patch", min=1, help="The side of a patch, in pixels.")
]
Log = Annotated[
    Path, typer.Option("--log", help="Where every training is written down.")
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Of each of them.")]


def shields(
    log: Log = Path("shields.json"),
    *,
    shield: Annotated[
        list[str] | None,
        typer.Option("--shield", help="One of those to measure; again for more."),
    ] = None,
    data: Data = "cifar10",
    images: Images = 20_000,
    epochs: Epochs = 2,
    hidden: Hidden = 64,
    patch: Patch = 4,
    seeds: Seeds = 3,
    json_: AsJson = False,
) -> None:
    """Train the same small model under each shield, and say what accuracy it costs.

    One thread. Ended and started again, it goes on after the last whole training.
    docs/shields.md explains the figures.

    Example: keymixer bench shields --shield none --shield highpass:9
    """
    from orchestrator.bench.shields import SHIELDS, Budget, measure_shields

    budget = Budget(data, images, epochs, hidden, patch_size=patch, seeds=seeds)
    told = _telling("{shield}, seed {seed}: {accuracy:.2%}")
    rows = measure_shields(budget, shield or SHIELDS, log, told)
    columns = {
        "shield": "shield",
        "outputs": "numbers a block",
        "seeds": "seeds",
        "accuracy": "accuracy %",
        "deviation": "deviation",
        "lost": "points lost",
    }
    print_rows("Accuracy under shields", rows, columns, as_json=json_)


def schemes(
    log: Log = Path("schemes.json"),
    *,
    scheme: Annotated[
        list[str] | None,
        typer.Option("--scheme", help="One of those to measure; again for more."),
    ] = None,
    data: Data = "cifar10",
    images: Images = 20_000,
    epochs: Epochs = 2,
    hidden: Hidden = 64,
    patch: Patch = 4,
    seeds: Seeds = 3,
    json_: AsJson = False,
) -> None:
    """Train the same small model on pictures encrypted under each scheme.

    One key for all pictures; one thread. Ended and started again, it goes on after the
    last whole training. docs/leakage.md explains the figures.

    Example: keymixer bench schemes --scheme plain --scheme "block scrambling"
    """
    from orchestrator.bench.schemes import SCHEMES, measure_schemes
    from orchestrator.bench.shields import Budget

    if unknown := set(scheme or ()) - SCHEMES.keys():
        raise typer.BadParameter(
            f"{unknown.pop()!r}: expected one of {', '.join(SCHEMES)}"
        )
    budget = Budget(data, images, epochs, hidden, patch_size=patch, seeds=seeds)
    told = _telling("{scheme}, seed {seed}: {accuracy:.2%}")
    rows = measure_schemes(budget, scheme or tuple(SCHEMES), log, told)
    columns = {
        "scheme": "scheme",
        "seeds": "seeds",
        "accuracy": "accuracy %",
        "deviation": "deviation",
        "lost": "points lost",
    }
    print_rows("Accuracy under schemes", rows, columns, as_json=json_)


def dial(
    shields: Annotated[
        list[Path], typer.Argument(help="Logs of `bench shields`: whose shields.")
    ],
    *,
    public: Annotated[
        int, typer.Option(min=64, help="Pictures that the attacker has.")
    ] = 20_000,
    attacked: Annotated[
        int, typer.Option(min=12, help="Pictures of the test split.")
    ] = 500,
    epochs: Annotated[
        int, typer.Option(min=1, help="How often the network sees each picture.")
    ] = 6,
    figure: Annotated[
        Path, typer.Option("--figure", help="Where it is drawn, as SVG.")
    ] = Path("dial.svg"),
    json_: AsJson = False,
) -> None:
    """Attack every shield that was trained under, knowing key and shield.

    Beside each log X.json the attacks' figures are X-recovered.json, with pictures
    X-recovered.png. One thread; it goes on where it was ended. docs/shields.md explains
    the figures.

    Example: keymixer bench dial shields.json
    """
    from orchestrator.bench.dial import Attacker
    from orchestrator.bench.dials import measure_dials

    told = _telling("{shield}: SSIM {ssim:.3f} by {attack}")
    attacker = Attacker(public=public, attacked=attacked, epochs=epochs)
    points = measure_dials(attacker, shields, figure, told)
    columns = {
        "data": "data",
        "shield": "shield",
        "accuracy": "accuracy %",
        "lost": "points lost",
        "attack": "strongest attack",
        "ssim": "SSIM",
        "psnr": "PSNR dB",
    }
    print_rows("Accuracy, and what is recovered", points, columns, as_json=json_)


def federated(
    data: Annotated[
        str, typer.Option(help="As for `keymixer train`; all sites' together.")
    ] = "cifar10",
    sites: Annotated[int, typer.Option(min=2, help="How many.")] = 5,
    epochs: Annotated[
        int, typer.Option(min=1, help="The budget: passes over all sites' images.")
    ] = 8,
    seeds: Annotated[
        int, typer.Option(min=1, help="How often all is trained, from other seeds.")
    ] = 3,
    partitions: Annotated[
        str, typer.Option(help="How images are dealt out to the sites.")
    ] = "iid,dirichlet:0.3",
    *,
    trial: Annotated[
        int, typer.Option(min=1, help="Passes after which the best site is chosen.")
    ] = 1,
    hidden: int = 64,
    depth: int = 2,
    kernel_size: int = 3,
    patch_size: int = 8,
    batch: int = 64,
    max_lr: float = 0.003,
    pad: int = 4,
    flip: bool = True,
    jobs: Annotated[
        int, typer.Option(min=1, help="How many are trained at the same time.")
    ] = 1,
    figure: Figure = None,
    keep: Keep = None,
    json_: AsJson = False,
) -> None:
    """Train over several sites, on all images in one place, and at each site alone.

    All have the same budget, and a processor each. It takes an hour or more; with
    --keep a second call goes on where the first was ended. docs/training.md explains
    the figures.

    Example: keymixer bench federated --keep worth --figure worth.svg
    """
    from orchestrator.bench.federated import Plan, measure_federated
    from orchestrator.bench.trainings import Shape
    from orchestrator.simulation.narrator import Narrator

    plan = Plan(
        data=data,
        sites=sites,
        epochs=epochs,
        seeds=seeds,
        partitions=tuple(partitions.split(",")),
        trial=trial,
        jobs=jobs,
        shape=Shape(
            hidden=hidden,
            depth=depth,
            kernel_size=kernel_size,
            patch_size=patch_size,
            batch=batch,
            max_lr=max_lr,
            pad=pad,
            flip=flip,
        ),
    )
    told = Narrator(Console(stderr=True))
    report = measured(keep, lambda folder: measure_federated(plan, folder, told))
    if figure is not None:
        from orchestrator.bench.federated_figure import write_figure

        write_figure(report, figure)
    show(report, _print_federated, as_json=json_)


def _telling(words: str) -> Callable[[Mapping[str, Any], int, int], None]:
    """Say each time how many are done, and of the last one what the words name."""
    console = Console(stderr=True)

    def told(found: Mapping[str, Any], done: int, total: int) -> None:
        said = words.format_map(found)
        console.print(f"{done} of {total}: {said}, {found['cpu_s']} s", highlight=False)

    return told


def _print_federated(report: dict[str, Any]) -> None:
    rows = [
        {
            "what": row["what"],
            "partition": row["partition"] or "all in one place",
            "accuracy": f"{row['mean']:.1%} ({row['least']:.1%} to {row['most']:.1%})",
            "cpu_seconds": f"{row['cpu_seconds']:,.0f}",
        }
        for row in report["rows"]
    ]
    columns = {
        "what": "trained",
        "partition": "images",
        "accuracy": "accuracy, over the seeds",
        "cpu_seconds": "CPU-seconds",
    }
    print_rows("On all test images", rows, columns, as_json=False)
    told = {
        f"{partition}: {what.replace('_', ' ')}, points": ", ".join(
            f"{point:+.1f}" for point in points
        )
        for partition, worth in report["worth"].items()
        for what, points in worth.items()
    }
    print_facts("Seed by seed", {**told, **machine_of(report)})
