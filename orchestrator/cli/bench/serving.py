"""How fast pictures are answered, for how many owners, beside what others serve."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from core.console import print_facts, print_rows
from orchestrator.cli.bench.showing import (
    Figure,
    Keep,
    listed,
    machine_of,
    measured,
    show,
)
from orchestrator.cli.options import AsJson

Release = Annotated[
    Path | None,
    typer.Option(help="A release's folder; else random weights of h256 d8 p4."),
]
Seconds = Annotated[
    float, typer.Option(min=0.5, help="How long each measurement takes.")
]


def serving(
    owners: Annotated[int, typer.Option(min=32, help="How many owners.")] = 1000,
    release: Release = None,
    peers: Annotated[
        str, typer.Option(help="Which, such as litserve; `all`, or `none`.")
    ] = "all",
    seconds: Seconds = 4,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each is measured, in turns.")
    ] = 3,
    *,
    replicas: Annotated[
        int, typer.Option(min=0, help="Inference servers; 0: as many as processors.")
    ] = 0,
    figure: Figure = None,
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
    told = Narrator(Console(stderr=True))
    report = measured(keep, lambda folder: measure_serving(plan, folder, told))
    if figure is not None:
        from orchestrator.bench.serving_figure import write_figure

        write_figure(report, figure)
    show(report, _print_serving, as_json=json_)


def fairness(
    callers: Annotated[
        int, typer.Option(min=1, max=120, help="How many of one owner ask at a time.")
    ] = 64,
    release: Release = None,
    seconds: Seconds = 4,
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
    told = Narrator(Console(stderr=True))
    report = measured(keep, lambda folder: measure_fairness(plan, folder, told))
    show(report, _print_fairness, as_json=json_)


def peers(
    release: Release = None,
    names: Annotated[
        str, typer.Option("--peers", help="Which, such as litserve,mlserver; else all.")
    ] = "",
    seconds: Seconds = 5,
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
    plan = Plan(seconds=seconds, rounds=rounds)
    with console.status("peers") as status:

        def told(line: str) -> None:
            status.update(escape(line[:100]))

        report = measured(
            keep, lambda folder: measure_peers(release, chosen, plan, folder, told)
        )
    show(report, _print_peers, as_json=json_)


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
    from orchestrator.bench.owners import Plan, measure_owners
    from orchestrator.simulation.narrator import Narrator

    told = Narrator(Console(stderr=True))
    report = measure_owners(Plan(count, hidden, patch, budget), told)
    show(report, _print_owners, as_json=json_)


def _peer_names(text: str) -> tuple[str, ...] | None:
    if text == "all":
        return None
    return () if text == "none" else tuple(text.split(","))


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
        "p99 beside the flood, over alone": listed(report["flooded_over_alone"]),
        "over the same load of as many owners": listed(
            report["flooded_over_same_load"]
        ),
        "callers of the flood": str(report["callers"]),
        "rounds": f"{report['rounds']} of {report['seconds']:g} s",
        **machine_of(report),
    }
    print_facts("By the calm owner's callers, medians of each round's", told)


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


def _print_owners(report: dict[str, Any]) -> None:
    told = {
        "the federation starts in": f"{report['start_s']:.1f} s",
        "most memory of the inference server": f"{report['peak_mib']:,.0f} MiB",
        "of that, before anybody asked": f"{report['peak_at_start_mib']:,.0f} MiB",
        "the first answer to an owner": f"{listed(report['cold_ms'])} ms",
        "the next ones": f"{listed(report['warm_ms'])} ms",
        "so a cold owner waits longer by": f"{report['cold_minus_warm_ms']:.2f} ms",
        **machine_of(report),
    }
    print_facts(f"{report['owners']:,} owners of one server", told)
