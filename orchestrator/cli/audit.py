"""`keymixer audit`: its group; and `show | verify`: that the log is whole."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from core.console import EXIT_CODES, print_json
from core.errors import NotFound, Refused
from orchestrator.cli import audit_query
from orchestrator.cli.options import LATEST, As, AsJson, Run
from orchestrator.cli.session import ask

if TYPE_CHECKING:
    from core.database import Database

KEY_BYTES = 32

app = typer.Typer(help="Read and verify the audit log.", no_args_is_help=True)
app.add_typer(audit_query.app)


@app.command(epilog=EXIT_CODES)
def show(
    index: Annotated[int, typer.Argument(help="The record's index.", min=0)],
    run: Run = LATEST,
    *,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Show one record, exactly as it was hashed.

    Example: keymixer audit show 12
    """
    found = _records(run, as_, index, "", 1)
    if not found or found[0][0] != index:
        raise NotFound(f"the log has no record {index}: see `keymixer audit list`")
    if json_:
        print_json(json.loads(found[0][1]))
    else:
        Console().print_json(found[0][1].decode())


@app.command(epilog=EXIT_CODES)
def verify(
    run: Run = LATEST,
    *,
    public_key: Annotated[
        str, typer.Option(help="The log's public key, in hex; else the run's own.")
    ] = "",
    json_: AsJson = False,
) -> None:
    """Recompute the whole log from its stored bodies; works while nothing runs.

    Example: keymixer audit verify --run runs/latest
    """
    from core.rpc.identity import ORCHESTRATOR
    from orchestrator.audit.verify import verify_log
    from orchestrator.simulation.workspace import open_workspace

    folder = open_workspace(run).server_folder(ORCHESTRATOR)
    key = _read_key(public_key) if public_key else _own_key(folder)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("records", total=None)

        def update(done: float, total: float, _note: str = "") -> None:
            progress.update(task, completed=done, total=total)

        with _log_of(folder) as (source, side_file):
            report = verify_log(source, key, update, side_file=side_file)
    if report.checkpoints == 0:
        raise NotSignedError(f"no checkpoint signs any of its {report.size} records")
    if json_:
        print_json(
            {
                "verified": True,
                "size": report.size,
                "signed_size": report.signed_size,
                "root": report.root.hex(),
            }
        )
    else:
        Console().print(
            f"{report.size} records verified, the first {report.signed_size} of them "
            f"signed; root {report.root.hex()}",
            highlight=False,
            soft_wrap=True,
        )


class NotSignedError(Refused):
    """A log without a checkpoint could be anybody's, and could be cut unseen."""

    hint = "start the orchestrator, which signs its log, and verify again"


@contextmanager
def _log_of(folder: Path) -> "Iterator[tuple[Database | Path, Path | None]]":
    """The log's database: SQLite's file, or a server's and the checkpoint beside us."""
    from sqlalchemy import make_url

    from orchestrator.audit.writer import SIDE_FILE
    from orchestrator.registry.database import open_database
    from orchestrator.settings import Settings

    found = Settings.load(folder).database
    url = make_url(found)
    if url.get_backend_name() == "sqlite":
        yield Path(url.database or ""), None
        return
    with open_database(found) as database:
        yield database, folder / SIDE_FILE


def _records(
    run: Path, as_: str, start: int, kind: str, limit: int
) -> list[tuple[int, bytes]]:
    entries = ask(
        run, as_, lambda operator: list(islice(operator.entries(start, kind), limit))
    )
    return [(entry.index, entry.body) for entry in entries]


def _read_key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise typer.BadParameter(f"expected {2 * KEY_BYTES} hex digits")
    return key


def _own_key(folder: Path) -> bytes:
    """The public half of the run's log key, for a person who trusts this folder."""
    from orchestrator.audit.keys import public_log_key

    return public_log_key(folder)
