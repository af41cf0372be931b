"""`keymixer issued`: which key reads which model version."""

from typing import Final

import typer

from core.console import EXIT_CODES, print_rows
from orchestrator.cli.options import LATEST, As, AsJson, Run
from orchestrator.cli.session import ask

app = typer.Typer()

_COLUMNS: Final = {
    "key_id": "key",
    "key_version": "key version",
    "model": "model",
    "model_version": "model version",
    "state": "state",
    "created": "created",
}


@app.command(epilog=EXIT_CODES)
def issued(run: Run = LATEST, *, as_: As = "", json_: AsJson = False) -> None:
    """List the issued models: which key reads which model version.

    Example: keymixer issued --json
    """
    from orchestrator.cli.rows import issued_fields

    found = ask(run, as_, lambda operator: operator.issued())
    rows = [issued_fields(one) for one in found]
    print_rows("Issued models", rows, _COLUMNS, as_json=json_)
