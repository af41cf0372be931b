"""How every command prints: a table or JSON, one form of error, exit codes."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from core.errors import BudgetSpent, Conflict, KeymixerError, Refused, Unavailable

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
UNAVAILABLE: Final = 4
INTERRUPTED: Final = 130

EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 failed (bad input, not found); 2 wrong usage; "
    "3 refused; 4 a party, disk or log is not available; 130 interrupted."
)

Row = Mapping[str, Any]
# What is to be copied, or read at a glance, stays on one line.
_WHOLE: Final = frozenset({"key_id", "spiffe_id", "state"})
# Of keys, issued models, parties, servers, jobs and approvals; others stay plain.
_STATE_COLOURS: Final = {
    "pre_active": "cyan",
    "active": "green",
    "retiring": "yellow",
    "suspended": "bright_magenta",
    "compromised": "bold red",
    "destroy_scheduled": "red",
    "destroyed": "dim",
    "pending": "cyan",
    "live": "green",
    "gone": "dim",
    "revoked": "red",
    "serving": "green",
    "not serving": "red",
    "stopped": "dim",
    "ready": "cyan",
    "waiting": "yellow",
    "needs_operator": "bold red",
    "done": "green",
    "aborted": "dim",
    "approved": "yellow",
    "executed": "green",
    "rejected": "red",
    "expired": "dim",
}


def exit_code(error: KeymixerError) -> int:
    """The exit code a command ends with when it raises `error`."""
    return getattr(error, "exit_code", None) or _by_category(error)


def _by_category(error: KeymixerError) -> int:
    if isinstance(error, Refused | Conflict | BudgetSpent):
        return REFUSED
    if isinstance(error, Unavailable):
        return UNAVAILABLE
    return FAILED


def print_error(error: KeymixerError, *, as_json: bool) -> None:
    """Say what went wrong and what to do next, on stderr (JSON: on stdout)."""
    if as_json:
        content = {"kind": error.kind, "message": str(error), "next": error.hint}
        print_json({"error": content})
        return
    console = Console(stderr=True)
    console.print(
        f"[red]error:[/red] {escape(f'{error.kind}: {error}')}", highlight=False
    )
    # A peer's answer holds its hint already.
    if error.hint and error.hint not in str(error):
        console.print(f"next: {escape(error.hint)}", highlight=False)


def print_json(content: object) -> None:
    """Print JSON for programs."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def print_rows(
    title: str, rows: Sequence[Row], columns: Mapping[str, str], *, as_json: bool
) -> None:
    """Print rows as a table of `columns` (field -> heading), or all fields as JSON.

    A field `state` is coloured by its word.
    """
    if as_json:
        print_json(list(rows))
        return
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for field, heading in columns.items():
        table.add_column(heading, overflow="fold", no_wrap=field in _WHOLE)
    for row in rows:
        table.add_row(*(_cell(field, str(row[field])) for field in columns))
    Console().print(table if rows else f"{title}: none yet")


def print_facts(title: str, facts: Row) -> None:
    """Print what is known of one thing, a line each; what is empty is left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for field, value in facts.items():
        if str(value):
            table.add_row(Text(field, style="dim"), _cell(field, str(value)))
    console = Console()
    console.print(Text(title, style="bold"))
    console.print(table)


def say(text: str) -> None:
    """Print a sentence on stdout, as it is."""
    Console().print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on stderr how far something is, if a person looks; it is gone afterwards."""
    console = Console(stderr=True)
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.advance(task, done)


def _cell(field: str, text: str) -> Text:
    return Text(text, style=_STATE_COLOURS.get(text, "") if field == "state" else "")
