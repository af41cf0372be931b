"""What issuing and rotating many keys costs."""

from typing import Annotated, Any

import typer
from rich.console import Console

from core.console import print_facts, print_rows
from orchestrator.cli.bench.showing import Keep, listed, machine_of, measured, show
from orchestrator.cli.options import AsJson


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

    plan, console = Plan(owners, hidden, patch, threads), Console(stderr=True)
    report = measured(keep, lambda folder: measure_keys(plan, folder, console))
    show(report, _print, as_json=json_)


def _print(report: dict[str, Any]) -> None:
    whole = report["seconds"]
    rows = [{"phase": word, "seconds": f"{s:,.1f}"} for word, s in whole.items()]
    print_rows("The run", rows, {"phase": "phase", "seconds": "seconds"}, as_json=False)
    _print_passages("Rotation of every key", report["rotation"])
    told = {
        "rotations a second": report["rotations_per_s"],
        "processor seconds": listed(report["cpu_seconds"]),
        "commits": listed(report["commits"]),
        "audit records": f"{report['records']:,}",
        "databases, MB": listed(report["database_mb"]),
        **machine_of(report),
    }
    print_facts(f"{report['owners']:,} keys", told)


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
