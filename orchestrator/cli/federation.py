"""`keymixer simulate | up | down | status`: a federation on this machine."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from core.console import (
    EXIT_CODES,
    INTERRUPTED,
    UNAVAILABLE,
    print_json,
    print_rows,
)
from orchestrator.cli.options import LATEST, RUNS, AsJson, Run

app = typer.Typer()

SCENARIO = Path("deploy/scenarios/cifar10.yaml")
Scenario = Annotated[Path, typer.Argument(help="The federation file.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="Images instead of the scenario's: cifar10, digits, a folder with one "
        "subfolder a class, or an .npz with uint8 images (NHWC) and labels."
    ),
]
Runs = Annotated[Path, typer.Option(help="Where runs are kept.")]
Retrain = Annotated[bool, typer.Option("--retrain", help="Train, even if cached.")]


@app.command(epilog=EXIT_CODES)
def simulate(
    scenario: Scenario = SCENARIO,
    *,
    data: Data = None,
    runs: Runs = RUNS,
    retrain: Retrain = False,
    json_: AsJson = False,
) -> None:
    """Run a whole federation on this machine and write a report with pictures.

    Example: keymixer simulate deploy/scenarios/digits.yaml
    """
    from orchestrator.simulation.run import simulate as run

    console = Console(stderr=True)
    try:
        root = run(scenario, runs, console=console, data=data, retrain=retrain)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if json_:
        print_json(json.loads((root / "report.json").read_text()))
    console.print(f"\nReport: [bold]{root / 'report.html'}[/bold]", soft_wrap=True)


@app.command(epilog=EXIT_CODES)
def up(
    scenario: Scenario = SCENARIO,
    *,
    resume: Annotated[
        Path | None, typer.Option(help="Start a stopped run again, as it was.")
    ] = None,
    data: Data = None,
    runs: Runs = RUNS,
    retrain: Retrain = False,
    json_: AsJson = False,
) -> None:
    """Start a federation that stays, until `keymixer down`.

    Example: keymixer up deploy/scenarios/digits.yaml
    """
    from orchestrator.simulation.standing import resume_run, start_run

    console = Console(stderr=True)
    if resume and (data or retrain):
        raise typer.BadParameter(
            "a run is started again as it was: no --data, --retrain"
        )
    try:
        if resume:
            root = resume_run(resume, console=console)
        else:
            root = start_run(
                scenario, runs, console=console, data=data, retrain=retrain
            )
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    console.print(
        "\nThe federation is up. Next: `keymixer status`, `keymixer predict IMAGE...`, "
        "`keymixer down`.\nIts certificates end in 24 hours; `keymixer down` and "
        f"`keymixer up --resume {root}` make new ones.",
        highlight=False,
        soft_wrap=True,
    )
    if json_:
        print_json({"run": str(root), "servers": _status(root)})


@app.command(epilog=EXIT_CODES)
def down(run: Run = LATEST, *, json_: AsJson = False) -> None:
    """Stop a federation that `keymixer up` started.

    Example: keymixer down
    """
    from orchestrator.simulation.standing import stop_run

    stopped = [p.name for p in stop_run(run)]
    if json_:
        print_json({"stopped": stopped})
    else:
        Console().print(f"stopped: {', '.join(stopped) or 'nothing was running'}")


@app.command(epilog=EXIT_CODES)
def status(run: Run = LATEST, *, json_: AsJson = False) -> None:
    """Say which servers of a federation run, and whether they are healthy.

    Ends with 4 unless all of them serve.

    Example: keymixer status
    """
    columns = {"role": "server", "state": "state", "address": "address", "pid": "pid"}
    rows = _status(run)
    print_rows(f"Federation in {run.resolve()}", rows, columns, as_json=json_)
    if all(row["state"] == "serving" for row in rows):
        return
    if not json_:
        again = f"`keymixer down --run {run}`, then `keymixer up --resume {run}`"
        Console(stderr=True).print(f"next: {again}", highlight=False, soft_wrap=True)
    raise typer.Exit(UNAVAILABLE)


def _status(run: Path) -> list[dict[str, Any]]:
    from orchestrator.simulation.standing import server_states

    return server_states(run)
