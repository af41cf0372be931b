"""`keymixer audit witnesses`: how far each data owner has witnessed the log."""

from typing import Any

import typer

from core.console import EXIT_CODES, print_rows
from orchestrator.cli.options import LATEST, As, AsJson, Run
from orchestrator.cli.session import ask
from orchestrator.cli.times import when

app = typer.Typer()


@app.command(epilog=EXIT_CODES)
def witnesses(run: Run = LATEST, *, as_: As = "", json_: AsJson = False) -> None:
    """Show the newest checkpoint that each data owner has cosigned.

    Example: keymixer audit witnesses
    """
    found, size = ask(run, as_, lambda operator: operator.cosignatures())
    rows: list[dict[str, Any]] = [
        {
            "witness": each.witness,
            "size": each.size,
            "behind": size - each.size,
            "at": when(each.at_s * 1000),
            "checkpoint": each.checkpoint.decode(),
        }
        for each in found
    ]
    columns = {"witness": "witness", "size": "records", "behind": "behind", "at": "at"}
    print_rows("Witnesses", rows, columns, as_json=json_)
