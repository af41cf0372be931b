"""`keymixer audit`: its group; `show | verify | export`: that the log is whole."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from core.console import EXIT_CODES, print_json, say
from core.errors import NotFound, Refused
from orchestrator.cli import audit_query, erasing, receipts, witnesses
from orchestrator.cli.options import LATEST, As, AsJson, Run, read_public_key
from orchestrator.cli.session import ask, tell

if TYPE_CHECKING:
    from core.database import Database
    from orchestrator.audit.verify import LogReport

Progressed = Callable[[int, int], None]

app = typer.Typer(help="Read and verify the audit log.", no_args_is_help=True)
app.add_typer(audit_query.app)
app.add_typer(receipts.app, name="receipt")
app.add_typer(witnesses.app)
app.add_typer(erasing.app)


@app.command(epilog=EXIT_CODES)
def show(
    index: Annotated[int, typer.Argument(help="The record's index.", min=0)],
    run: Run = LATEST,
    *,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Show one record, exactly as it was hashed, and the reason kept beside it.

    Example: keymixer audit show 12
    """
    from orchestrator.audit.notes import REASON
    from orchestrator.audit.reading import record_of
    from orchestrator.cli.audit_rows import plain

    found = ask(run, as_, lambda operator: next(operator.entries(index), None))
    if found is None or found.index != index:
        raise NotFound(f"the log has no record {index}: see `keymixer audit list`")
    if json_:
        print_json(json.loads(found.body))
        return
    Console().print_json(found.body.decode())
    if reason := record_of(found)["subject"].get(REASON):
        say(f"reason: {plain(reason)}")


@app.command(epilog=EXIT_CODES)
def verify(
    run: Run = LATEST,
    *,
    public_key: Annotated[
        str, typer.Option(help="The log's public key, in hex; else the run's own.")
    ] = "",
    from_tiles: Annotated[
        Path | None,
        typer.Option(
            help="Verify this folder of exported tiles, not the run's own log.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Recompute the whole log from its stored bodies; works while nothing runs.

    Example: keymixer audit verify --run runs/latest
    """
    from orchestrator.audit.tile_check import verify_tiles

    key = read_public_key(public_key) if public_key else _own_key(_folder(run))
    with _progress() as update:
        if from_tiles is not None:
            report = verify_tiles(from_tiles, key, update)
        else:
            report = _verify_own(_folder(run), key, update)
    if report.checkpoints == 0:
        raise NotSignedError(f"no checkpoint signs any of its {report.size} records")
    if json_:
        print_json(
            {
                "verified": True,
                "size": report.size,
                "signed_size": report.signed_size,
                "root": report.root.hex(),
                "erased": report.erased,
            }
        )
    else:
        Console().print(
            f"{report.size} records verified, the first {report.signed_size} of them "
            f"signed; root {report.root.hex()}{_erased(report)}",
            highlight=False,
            soft_wrap=True,
        )


@app.command(epilog=EXIT_CODES)
def export(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="New, or an earlier export's folder.")
    ],
    run: Run = LATEST,
    *,
    json_: AsJson = False,
) -> None:
    """Export the signed log as static files (C2SP tiles); works while nothing runs.

    Example: keymixer audit export tiles
    """
    from orchestrator.audit.kept import log_of
    from orchestrator.audit.tiles import export_tiles

    with (
        log_of(_folder(run)) as (source, _),
        _opened(source) as database,
        _progress() as update,
    ):
        exported = export_tiles(database, folder, update)
    told = (
        f"{exported.size} records are in {folder}, {exported.written} tiles are new. "
        f"To verify them: keymixer audit verify --from-tiles {folder}"
    )
    content = {"size": exported.size, "written": exported.written, "to": str(folder)}
    tell(content, told, as_json=json_)


class NotSignedError(Refused):
    """A log without a checkpoint could be anybody's, and could be cut unseen."""

    hint = "start the orchestrator, which signs its log, and verify again"


def _erased(report: "LogReport") -> str:
    return f"; notes erased on record: {report.erased}" if report.erased else ""


def _folder(run: Path) -> Path:
    """The orchestrator's folder of a run."""
    from core.rpc.identity import ORCHESTRATOR
    from orchestrator.simulation.workspace import open_workspace

    return open_workspace(run).server_folder(ORCHESTRATOR)


def _verify_own(folder: Path, key: bytes, update: Progressed) -> "LogReport":
    from orchestrator.audit.kept import log_of
    from orchestrator.audit.verify import verify_log

    with log_of(folder) as (source, side_file):
        return verify_log(source, key, update, side_file=side_file)


@contextmanager
def _progress() -> Iterator[Progressed]:
    """A bar on stderr that goes away; call it with records done and in all."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("records", total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update


@contextmanager
def _opened(source: "Database | Path") -> "Iterator[Database]":
    """The database itself; a file is opened for reading only."""
    from core.database import open_existing

    if not isinstance(source, Path):
        yield source
        return
    with open_existing(source) as database:
        yield database


def _own_key(folder: Path) -> bytes:
    """The public half of the run's log key, for a person who trusts this folder."""
    from orchestrator.audit.keys import public_log_key

    return public_log_key(folder)
