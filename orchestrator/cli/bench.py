"""`keymixer bench`: measure on this machine what keymixer costs."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape

from core.console import (
    EXIT_CODES,
    INTERRUPTED,
    print_facts,
    print_json,
    print_rows,
)
from orchestrator.cli.options import AsJson

app = typer.Typer(help="Measure on this machine what keymixer costs.")

# The log's introduction alone takes a few records.
_SMALLEST_LOG: Final = 100

Keep = Annotated[
    Path | None,
    typer.Option("--keep", help="Keep folders, databases and logs in this folder."),
]


@app.callback()
def bench() -> None:
    """Measure on this machine what keymixer costs; nothing is left behind."""


@app.command(epilog=EXIT_CODES)
def keys(
    owners: Annotated[int, typer.Option(min=1, max=999_999)] = 1000,
    hidden: Annotated[
        int, typer.Option(min=1, help="The width of the model's tokens.")
    ] = 256,
    patch: Annotated[
        int, typer.Option(min=1, help="The side of a patch, in pixels.")
    ] = 4,
    threads: Annotated[
        int, typer.Option(min=1, help="How many owners act at the same time.")
    ] = 8,
    *,
    keep: Keep = None,
    json_: AsJson = False,
) -> None:
    """Give many owners a key for one model, rotate every key, and say what it took.

    Real servers, databases and mutual TLS; the owners share one process. docs/scale.md
    explains the figures.

    Example: keymixer bench keys --owners 100
    """
    from orchestrator.bench.keys import Plan, measure_keys

    plan = Plan(owners, hidden, patch, threads)
    try:
        with _folder(keep) as folder:
            report = measure_keys(plan, folder, Console(stderr=True))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if json_:
        print_json(report)
    else:
        _print(report)


@app.command(epilog=EXIT_CODES)
def shields(
    log: Annotated[
        Path, typer.Option("--log", help="Where every training is written down.")
    ] = Path("shields.json"),
    *,
    shield: Annotated[
        list[str] | None,
        typer.Option("--shield", help="One of those to measure; again for more."),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", help="cifar10, digits, a folder, or an .npz.")
    ] = "cifar10",
    images: Annotated[
        int, typer.Option("--images", min=2, help="Of the training set, the first.")
    ] = 20_000,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 2,
    hidden: Annotated[
        int, typer.Option("--hidden", min=1, help="The width of the model's tokens.")
    ] = 64,
    patch: Annotated[
        int, typer.Option("--patch", min=1, help="The side of a patch, in pixels.")
    ] = 4,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Of each shield.")] = 3,
    json_: AsJson = False,
) -> None:
    """Train the same small model under each shield, and say what accuracy it costs.

    One thread. Ended and started again, it goes on after the last whole training.
    docs/shields.md explains the figures.

    Example: keymixer bench shields --shield none --shield highpass:9
    """
    from orchestrator.bench.shields import SHIELDS, Budget, measure_shields

    budget = Budget(data, images, epochs, hidden, patch_size=patch, seeds=seeds)
    console = Console(stderr=True)

    def told(run: Mapping[str, Any], done: int, total: int) -> None:
        said = f"{run['shield']}, seed {run['seed']}: {run['accuracy']:.2%}"
        console.print(f"{done} of {total}: {said}, {run['cpu_s']} s", highlight=False)

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


@app.command(epilog=EXIT_CODES)
def schemes(
    log: Annotated[
        Path, typer.Option("--log", help="Where every training is written down.")
    ] = Path("schemes.json"),
    *,
    scheme: Annotated[
        list[str] | None,
        typer.Option("--scheme", help="One of those to measure; again for more."),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", help="cifar10, digits, a folder, or an .npz.")
    ] = "cifar10",
    images: Annotated[
        int, typer.Option("--images", min=2, help="Of the training set, the first.")
    ] = 20_000,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 2,
    hidden: Annotated[
        int, typer.Option("--hidden", min=1, help="The width of the model's tokens.")
    ] = 64,
    patch: Annotated[
        int, typer.Option("--patch", min=1, help="The side of a patch, in pixels.")
    ] = 4,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Of each scheme.")] = 3,
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
    console = Console(stderr=True)

    def told(run: Mapping[str, Any], done: int, total: int) -> None:
        said = f"{run['scheme']}, seed {run['seed']}: {run['accuracy']:.2%}"
        console.print(f"{done} of {total}: {said}, {run['cpu_s']} s", highlight=False)

    rows = measure_schemes(budget, scheme or tuple(SCHEMES), log, told)
    columns = {
        "scheme": "scheme",
        "seeds": "seeds",
        "accuracy": "accuracy %",
        "deviation": "deviation",
        "lost": "points lost",
    }
    print_rows("Accuracy under schemes", rows, columns, as_json=json_)


@app.command(epilog=EXIT_CODES)
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

    console = Console(stderr=True)

    def told(row: Mapping[str, Any], done: int, total: int) -> None:
        said = f"{row['shield']}: SSIM {row['ssim']:.3f} by {row['attack']}"
        console.print(f"{done} of {total}: {said}, {row['cpu_s']} s", highlight=False)

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


@app.command(epilog=EXIT_CODES)
def audit(
    callers: Annotated[
        int, typer.Option(min=1, max=1000, help="How many append at the same time.")
    ] = 32,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often both ways are measured, in turns.")
    ] = 5,
    *,
    keep: Keep = None,
    json_: AsJson = False,
) -> None:
    """Append to audit logs, with shared commits and with one each, and compare.

    Both logs are recomputed in the end. docs/scale.md explains the figures.

    Example: keymixer bench audit --callers 8
    """
    from orchestrator.bench.appends import Plan, measure_appends
    from orchestrator.simulation.narrator import Narrator

    told = Narrator(Console(stderr=True))
    try:
        with _folder(keep) as folder:
            report = measure_appends(Plan(callers, rounds), folder, told)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if json_:
        print_json(report)
    else:
        _print_appends(report)


@app.command(epilog=EXIT_CODES)
def growth(
    sizes: Annotated[
        str, typer.Option(help="The numbers of records to look at, ascending.")
    ] = "10000,100000,1000000",
    *,
    figure: Annotated[
        Path | None, typer.Option(help="Draw it, as SVG, into this file.")
    ] = None,
    keep: Keep = None,
    json_: AsJson = False,
) -> None:
    """Fill an audit log, and say what it costs at each size.

    A million records take some minutes, and 1.5 GB of disk. docs/growth.md explains
    the figures.

    Example: keymixer bench growth --sizes 1000,10000
    """
    from orchestrator.bench.growth import Plan, measure_growth
    from orchestrator.simulation.narrator import Narrator

    plan = Plan(_sizes(sizes))
    try:
        with _folder(keep) as folder:
            report = measure_growth(plan, folder, Narrator(Console(stderr=True)))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if figure is not None:
        from orchestrator.bench.growth_figure import write_figure

        write_figure(report["looks"], figure)
    if json_:
        print_json(report)
    else:
        _print_growth(report)


@app.command(epilog=EXIT_CODES)
def wire(
    release: Annotated[Path, typer.Option(help="The folder of a trained release.")],
    data: Annotated[str, typer.Option(help="The data it was trained on.")] = "cifar10",
    *,
    json_: AsJson = False,
) -> None:
    """Say how accurate answers are with blocks sent as float32, float16 and bytes.

    docs/wire.md explains the figures.

    Example: keymixer bench wire --release runs/latest/modelworks/releases/cells
    """
    from orchestrator.bench.wire import measure_wire

    rows = measure_wire(release, data)
    columns = {name: name.replace("_", " ") for name in rows[0]}
    print_rows("On the wire", rows, columns, as_json=json_)


@app.command(epilog=EXIT_CODES)
def encrypt(
    patch: Annotated[
        int, typer.Option(min=1, help="The side of a patch, in pixels.")
    ] = 4,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often both are measured, in turns.")
    ] = 30,
    *,
    json_: AsJson = False,
) -> None:
    """Say what encrypting costs an owner, beside one bare product of the same shape.

    docs/speed.md explains the figures.

    Example: keymixer bench encrypt --patch 8
    """
    from orchestrator.bench.encrypting import measure_encrypting

    rows = measure_encrypting(patch, rounds)
    columns = {name: name.replace("_", " ") for name in rows[0]}
    print_rows("Encrypting pictures of 32 x 32", rows, columns, as_json=json_)


@app.command(epilog=EXIT_CODES)
def owners(
    count: Annotated[
        int, typer.Option("--owners", min=100, max=999_999, help="How many owners.")
    ] = 10_000,
    hidden: Annotated[
        int, typer.Option(min=1, help="The width of the model's tokens.")
    ] = 256,
    patch: Annotated[
        int, typer.Option(min=1, help="The side of a patch, in pixels.")
    ] = 4,
    budget: Annotated[
        int, typer.Option(min=1, help="Memory for embeddings, in MiB.")
    ] = 256,
    *,
    json_: AsJson = False,
) -> None:
    """Say what many owners take of one inference server: memory, and first requests.

    The server is a real one, and so are orchestrator and log; the embeddings are made
    up, and the registry lists them as live. docs/scale.md explains the figures.

    Example: keymixer bench owners --owners 1000
    """
    from rich.console import Console

    from orchestrator.bench.owners import Plan, measure_owners
    from orchestrator.simulation.narrator import Narrator

    told = Narrator(Console(stderr=True))
    report = measure_owners(Plan(count, hidden, patch, budget), told)
    if json_:
        print_json(report)
    else:
        _print_owners(report)


@app.command(epilog=EXIT_CODES)
def peers(
    release: Annotated[
        Path | None,
        typer.Option(help="A release's folder; else random weights of h256 d8 p4."),
    ] = None,
    names: Annotated[
        str, typer.Option("--peers", help="Which, such as litserve,mlserver; else all.")
    ] = "",
    seconds: Annotated[
        float, typer.Option(min=0.5, help="How long each measurement takes.")
    ] = 5,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each peer is measured, in turns.")
    ] = 3,
    *,
    keep: Keep = None,
    json_: AsJson = False,
) -> None:
    """Measure other inference servers with the plain model, as they recommend it.

    Each runs in an environment of its own, which the first run installs into the
    user's cache: some gigabytes. docs/peers.md explains the figures.

    Example: keymixer bench peers --peers torchserve,litserve
    """
    from orchestrator.bench.comparison import Plan, measure_peers

    console = Console(stderr=True)
    chosen = [name for name in names.split(",") if name]
    try:
        with _folder(keep) as folder, console.status("peers") as status:
            report = measure_peers(
                release,
                chosen,
                Plan(seconds=seconds, rounds=rounds),
                folder,
                lambda line: status.update(escape(line[:100])),
            )
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if json_:
        print_json(report)
    else:
        _print_peers(report)


@app.command(epilog=EXIT_CODES)
def serving(
    owners: Annotated[int, typer.Option(min=32, help="How many owners.")] = 1000,
    release: Annotated[
        Path | None,
        typer.Option(help="A release's folder; else random weights of h256 d8 p4."),
    ] = None,
    peers: Annotated[
        str, typer.Option(help="Which, such as litserve; `all`, or `none`.")
    ] = "all",
    seconds: Annotated[
        float, typer.Option(min=0.5, help="How long each measurement takes.")
    ] = 4,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each is measured, in turns.")
    ] = 3,
    *,
    replicas: Annotated[
        int, typer.Option(min=0, help="Inference servers; 0: as many as processors.")
    ] = 0,
    figure: Annotated[
        Path | None, typer.Option(help="Draw it, as SVG, into this file.")
    ] = None,
    keep: Keep = None,
    json_: AsJson = False,
) -> None:
    """Measure a whole federation's answers a second, beside bare engines and others.

    Real servers, mutual TLS, a key for each owner and a record for every answer, in
    turns with the same model served by others, in the plain. docs/speed.md explains
    the figures.

    Example: keymixer bench serving --owners 100 --peers none
    """
    from orchestrator.bench.serving import Plan, measure_serving
    from orchestrator.simulation.narrator import Narrator

    plan = Plan(
        owners=owners,
        release=release,
        peers=_peer_names(peers),
        seconds=seconds,
        rounds=rounds,
        replicas=replicas,
    )
    try:
        with _folder(keep) as folder:
            told = Narrator(Console(stderr=True))
            report = measure_serving(plan, folder, told)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if figure is not None:
        from orchestrator.bench.serving_figure import write_figure

        write_figure(report, figure)
    if json_:
        print_json(report)
    else:
        _print_serving(report)


@app.command(epilog=EXIT_CODES)
def fairness(
    callers: Annotated[
        int, typer.Option(min=1, max=120, help="How many of one owner ask at a time.")
    ] = 64,
    release: Annotated[
        Path | None,
        typer.Option(help="A release's folder; else random weights of h256 d8 p4."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.5, help="How long each measurement takes.")
    ] = 4,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each is measured, in turns.")
    ] = 5,
    *,
    keep: Keep = None,
    json_: AsJson = False,
) -> None:
    """Say how much longer an owner waits while another one asks without pause.

    docs/serving.md explains the figures.

    Example: keymixer bench fairness --rounds 3
    """
    from orchestrator.bench.fairness import Plan, measure_fairness
    from orchestrator.simulation.narrator import Narrator

    plan = Plan(callers=callers, release=release, seconds=seconds, rounds=rounds)
    try:
        with _folder(keep) as folder:
            told = Narrator(Console(stderr=True))
            report = measure_fairness(plan, folder, told)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if json_:
        print_json(report)
    else:
        _print_fairness(report)


@app.command(epilog=EXIT_CODES)
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
    figure: Annotated[
        Path | None, typer.Option(help="Draw it, as SVG, into this file.")
    ] = None,
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
    try:
        with _folder(keep) as folder:
            told = Narrator(Console(stderr=True))
            report = measure_federated(plan, folder, told)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if figure is not None:
        from orchestrator.bench.federated_figure import write_figure

        write_figure(report, figure)
    if json_:
        print_json(report)
    else:
        _print_federated(report)


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
    machine = {word: str(fact) for word, fact in report["machine"].items()}
    print_facts("Seed by seed", {**told, **machine})


def _peer_names(text: str) -> tuple[str, ...] | None:
    if text == "all":
        return None
    return () if text == "none" else tuple(text.split(","))


def _print_fairness(report: dict[str, Any]) -> None:
    columns = {
        "callers": "callers",
        "beside": "",
        "p50_ms": "p50, ms",
        "p99_ms": "p99, ms",
        "images_per_s": "images/s",
    }
    print_rows("The calm owner", report["rows"], columns, as_json=False)
    told = {
        "p99 beside the flood, over alone": _listed(report["flooded_over_alone"]),
        "over the same load of as many owners": _listed(
            report["flooded_over_same_load"]
        ),
        "callers of the flood": str(report["callers"]),
        "rounds": f"{report['rounds']} of {report['seconds']:g} s",
        **{word: str(fact) for word, fact in report["machine"].items()},
    }
    print_facts("By the calm owner's callers, medians of each round's", told)


def _print_serving(report: dict[str, Any]) -> None:
    columns = {
        "peer": "what",
        "images_per_s": "images/s",
        "least_to_most": "least, most",
        "images_per_cpu_s": "images a CPU second",
        "p50_ms": "p50, ms",
        "p99_ms": "p99, ms",
        "over_bare": "over bare",
    }
    print_rows("Served", report["rows"], columns, as_json=False)
    kinds = (int, float, str)
    ratios = {
        n.replace("_", " "): str(v) for n, v in report.items() if type(v) in kinds
    }
    absent = {f"{name} is absent": why for name, why in report["absent"].items()}
    told = {**report["plan"], **report["allocator"], **report["machine"]}
    facts = {word: str(fact) for word, fact in told.items()}
    print_facts("Ratios, medians of each round's", {**ratios, **absent, **facts})


def _sizes(listed: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(each) for each in listed.split(","))
    except ValueError:
        sizes = ()
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < _SMALLEST_LOG:
        raise typer.BadParameter(
            f"expected ascending numbers from {_SMALLEST_LOG} on, such as 1000,10000"
        )
    return sizes


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where the run is: the folder to keep, or one that is gone afterwards."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="keymixer-bench-") as folder:
        yield Path(folder)


def _print(report: dict[str, Any]) -> None:
    whole = report["seconds"]
    rows = [{"phase": word, "seconds": f"{s:,.1f}"} for word, s in whole.items()]
    print_rows("The run", rows, {"phase": "phase", "seconds": "seconds"}, as_json=False)
    _print_passages("Rotation of every key", report["rotation"])
    told = {
        "rotations a second": report["rotations_per_s"],
        "processor seconds": _listed(report["cpu_seconds"]),
        "commits": _listed(report["commits"]),
        "audit records": f"{report['records']:,}",
        "databases, MB": _listed(report["database_mb"]),
        **{word: str(fact) for word, fact in report["machine"].items()},
    }
    print_facts(f"{report['owners']:,} keys", told)


def _print_appends(report: dict[str, Any]) -> None:
    told = {
        "shared commits": f"{report['appends_per_s']:,.0f} a second",
        "a commit each": f"{report['alone_per_s']:,.0f} a second",
        "gain": f"{report['group_commit_gain']:.1f} times (each round: "
        f"{', '.join(map(str, report['gains']))})",
        "99 of 100 waited at most": f"{report['p99_ms']:.1f} ms, "
        f"alone {report['alone_p99_ms']:.1f} ms",
        **{word: str(fact) for word, fact in report["machine"].items()},
    }
    print_facts(f"Appends of {report['callers']} callers", told)


def _print_owners(report: dict[str, Any]) -> None:
    told = {
        "the federation starts in": f"{report['start_s']:.1f} s",
        "most memory of the inference server": f"{report['peak_mib']:,.0f} MiB",
        "of that, before anybody asked": f"{report['peak_at_start_mib']:,.0f} MiB",
        "the first answer to an owner": f"{_listed(report['cold_ms'])} ms",
        "the next ones": f"{_listed(report['warm_ms'])} ms",
        "so a cold owner waits longer by": f"{report['cold_minus_warm_ms']:.2f} ms",
        **{word: str(fact) for word, fact in report["machine"].items()},
    }
    print_facts(f"{report['owners']:,} owners of one server", told)


def _print_peers(report: dict[str, Any]) -> None:
    columns = {
        "peer": "peer",
        "version": "version",
        "protocol": "protocol",
        "images_a_request": "images a request",
        "images_per_s": "images/s",
        "least_to_most": "least, most",
        "images_per_cpu_s": "images a CPU second",
        "p50_ms": "p50, ms",
        "p99_ms": "p99, ms",
        "over_bare": "over bare",
    }
    print_rows("Other servers", report["rows"], columns, as_json=False)
    told = {
        **{f"{name} is absent": why for name, why in report["absent"].items()},
        "callers": report["callers"],
        "rounds": f"{report['rounds']} of {report['seconds']:g} s",
        "threads of torch": report["threads"],
        "allocator": ", ".join(f"{n} {v}" for n, v in report["allocator"].items()),
        **report["machine"],
    }
    facts = {word: str(fact) for word, fact in told.items()}
    print_facts("The run", facts)


def _print_growth(report: dict[str, Any]) -> None:
    rows = [
        {word: f"{number:,g}" for word, number in look.items()}
        for look in report["looks"]
    ]
    columns = {
        "records": "records",
        "appends_per_s": "appended a second",
        "inclusion_ms": "prove a record, ms",
        "consistency_ms": "prove an extension, ms",
        "request_ms": "find a request, ms",
        "verified_per_s": "verified a second",
        "verify_mb": "verifying takes, MB",
        "bytes_a_record": "bytes a record",
    }
    print_rows("A log as it grows", rows, columns, as_json=False)
    facts = {word: str(fact) for word, fact in report["machine"].items()}
    print_facts("The machine", facts)


def _print_passages(title: str, passages: dict[str, dict[str, float]]) -> None:
    rows = [
        {"what": word.replace("_", " "), **{n: f"{s:,.2f}" for n, s in times.items()}}
        for word, times in passages.items()
    ]
    columns = {
        "what": "",
        "first_s": "first key after, s",
        "last_s": "last key after, s",
        "seconds": "adds, s",
    }
    print_rows(title, rows, columns, as_json=False)


def _listed(figures: dict[str, float | None]) -> str:
    known = {word: n for word, n in figures.items() if n is not None}
    return ", ".join(f"{word} {number:,g}" for word, number in known.items())
