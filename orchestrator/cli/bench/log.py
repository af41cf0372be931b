"""What an audit log costs, by the second and by its size."""

from typing import Annotated, Any, Final

import typer
from rich.console import Console

from core.console import print_facts, print_rows
from orchestrator.cli.bench.showing import Figure, Keep, machine_of, measured, show
from orchestrator.cli.options import AsJson

# The log's introduction alone takes a few records.
_SMALLEST_LOG: Final = 100


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
    plan = Plan(callers, rounds)
    report = measured(keep, lambda folder: measure_appends(plan, folder, told))
    show(report, _print_appends, as_json=json_)


def growth(
    sizes: Annotated[
        str, typer.Option(help="The numbers of records to look at, ascending.")
    ] = "10000,100000,1000000",
    *,
    figure: Figure = None,
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

    plan, told = Plan(_sizes(sizes)), Narrator(Console(stderr=True))
    report = measured(keep, lambda folder: measure_growth(plan, folder, told))
    if figure is not None:
        from orchestrator.bench.growth_figure import write_figure

        write_figure(report["looks"], figure)
    show(report, _print_growth, as_json=json_)


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


def _print_appends(report: dict[str, Any]) -> None:
    told = {
        "shared commits": f"{report['appends_per_s']:,.0f} a second",
        "a commit each": f"{report['alone_per_s']:,.0f} a second",
        "gain": f"{report['group_commit_gain']:.1f} times (each round: "
        f"{', '.join(map(str, report['gains']))})",
        "99 of 100 waited at most": f"{report['p99_ms']:.1f} ms, "
        f"alone {report['alone_p99_ms']:.1f} ms",
        **machine_of(report),
    }
    print_facts(f"Appends of {report['callers']} callers", told)


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
    print_facts("The machine", machine_of(report))
