"""`keymixer audit erase`: take what people typed off a record; the log stays whole."""

from typing import Annotated

import typer

from core.console import EXIT_CODES
from orchestrator.cli.options import LATEST, As, AsJson, Reason, Run
from orchestrator.cli.session import ask, tell

app = typer.Typer()


@app.command(epilog=EXIT_CODES)
def erase(
    index: Annotated[int, typer.Argument(help="The record's index.", min=0)],
    run: Run = LATEST,
    *,
    reason: Reason,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Erase the reason that was typed with a record; that you did is put on record.

    The record stays, with a digest that tells nobody anything. So does the reason given
    here, until it is erased too. Backups, and copies of what was shown, keep it.

    Example: keymixer audit erase 12 --reason "it named a patient"
    """
    others = ask(run, as_, lambda operator: operator.erase_note(index, reason))
    told = f"what was typed with record {index} is erased"
    if others:
        listed = ", ".join(map(str, others))
        told += f"; the same text is still with {listed}: erase it there too"
    tell({"erased": index, "same_text": others}, told, as_json=json_)
