"""`keymixer audit list | tail | summary | trace`: ask the log what happened."""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import sleep
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from rich.console import Console

from core.console import EXIT_CODES, INTERRUPTED, print_json, print_rows
from orchestrator.cli.filters import Filters, Since, Until, filtered, span, wanted
from orchestrator.cli.options import LATEST, As, AsJson, Run
from orchestrator.cli.session import Session, connected

if TYPE_CHECKING:
    from protos.audit_pb2 import AuditEntry, ListEntriesRequest

app = typer.Typer()

Format = Literal["table", "jsonl", "csv"]
_SUMMARY: Final = {
    "organisation": "organisation",
    "model": "model",
    "answered": "answered",
    "images": "images",
    "refusals": "refusals",
    "median": "median",
    "p95": "p95",
    "first": "first (UTC)",
    "last": "last (UTC)",
}
_LARGEST_PAGE: Final = 1000

As_ = Annotated[
    Format,
    typer.Option("--format", help="A table, records as hashed, or a spreadsheet."),
]


@app.command("list", epilog=EXIT_CODES)
@filtered
def list_(
    run: Run = LATEST,
    *,
    filters: Filters,
    start: Annotated[int, typer.Option(help="The first index.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100,
    format_: As_ = "table",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """List the records of a running federation's log that fit all that is asked for.

    Example: keymixer audit list --owner st-anna --since 2h --refused
    """
    from orchestrator.cli.audit_rows import rows

    with connected(run, as_) as session:
        page = {"start": start, "limit": min(limit, _LARGEST_PAGE)}
        question = filters.question(session, **page)
        entries = islice(session.operator.find_entries(question), limit)
        if json_:
            print_json(rows(entries))
        else:
            _printer(format_)(entries)


@app.command(epilog=EXIT_CODES)
@filtered
def tail(
    run: Run = LATEST,
    *,
    filters: Filters,
    start: Annotated[
        int | None, typer.Option(help="The first index; default: the end.", min=0)
    ] = None,
    format_: As_ = "table",
    as_: As = "",
) -> None:
    """Print records as they come, until you press Ctrl-C.

    Example: keymixer audit tail --refused
    """
    from orchestrator.cli.audit_tail import Tail

    with connected(run, as_) as session:
        question = filters.question(session)
        following = Tail(session.operator.entries_page, _whisper, sleep)
        try:
            _live_printer(format_)(following.follow(question, start))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


@app.command(epilog=EXIT_CODES)
def summary(
    run: Run = LATEST,
    *,
    since: Since = "",
    until: Until = "",
    by_version: Annotated[
        bool,
        typer.Option("--by-version", help="Each version of a model by itself."),
    ] = False,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Count answers, images and refusals, by organisation and model, with their times.

    Times are what computing took, not how long anybody waited.

    Example: keymixer audit summary --since 1d
    """
    from orchestrator.cli.audit_summary import summary_fields, summary_row, summed

    with connected(run, as_) as session:
        traffic = _traffic(session, span(since, until))
        sums = summed(traffic, by_version=by_version)
    fields = list(summary_fields(sums))
    rows = fields if json_ else [summary_row(each) for each in fields]
    print_rows("Traffic", rows, _SUMMARY, as_json=json_)


@app.command(epilog=EXIT_CODES)
def trace(
    request: Annotated[str, typer.Argument(help="A request's id.")],
    run: Run = LATEST,
    *,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Follow an answer to its key, its model, the training run and the data.

    Example: keymixer audit trace 3f6c1e9a-5d1b-4a52-9a0e-0d6f5c1c2b7e
    """
    from orchestrator.cli.audit_trace import traced, tree

    with connected(run, as_) as session:
        traces = traced(session.operator, request)
    if json_:
        print_json({"request_id": request, "traces": traces})
    else:
        Console().print(tree(request, traces))


def _bodies(session: Session, wanted: "ListEntriesRequest") -> Iterator[bytes]:
    return (entry.body for entry in session.operator.find_entries(wanted))


def _traffic(session: Session, when: dict[str, int]) -> Iterator[bytes]:
    yield from _bodies(session, wanted(session, "", kind="inference", **when))
    yield from _bodies(session, wanted(session, "", refused=True, **when))


def _printer(format_: Format) -> "Callable[[Iterable[AuditEntry]], None]":
    from orchestrator.cli import audit_rows

    return {
        "table": audit_rows.print_table,
        "jsonl": audit_rows.print_lines,
        "csv": audit_rows.print_csv,
    }[format_]


def _live_printer(format_: Format) -> "Callable[[Iterable[AuditEntry]], None]":
    """As `_printer`; who watches reads sentences, as a table has no end yet."""
    from orchestrator.cli.audit_rows import print_told

    return print_told if format_ == "table" else _printer(format_)


def _whisper(text: str) -> None:
    sys.stderr.write(text + "\n")
