"""`keymixer keys rewrap`: another key-encryption key for all that the key holder keeps.

Nothing heavy is imported before the command runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from core.console import EXIT_CODES, FAILED, OK, UNAVAILABLE, print_json, say
from core.errors import KeymixerError

if TYPE_CHECKING:
    from parties.key_holder.rewrap import Rewrapped

app = typer.Typer()

_LATEST: Final = Path("runs") / "latest"

To = Annotated[
    str,
    typer.Option("--to", metavar="URL", help="file:PATH, env:NAME or exec:/PATH ARG."),
]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="The key holder's own folder.")
]
Run = Annotated[
    Path, typer.Option("--run", help="The run's folder.", envvar="KEYMIXER_RUN")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command(epilog=EXIT_CODES)
def rewrap(
    to: To, folder: Folder = None, run: Run = _LATEST, *, json_: AsJson = False
) -> None:
    """Wrap every key and embedding of the key holder under another key-encryption key.

    Runs where the key holder's files are, also while it serves; killed, it goes on
    where it was when it is called again. Keys and their versions do not change. A
    `file:` that is not there is made; `env:` must be set for the running key holder
    too. The former key opens nothing of this afterwards, but what backups from before
    hold: delete it when they are gone.

    Example: keymixer keys rewrap --to file:kek-2.key
    """
    code = rewrap_and_tell(folder or run / "key-holder", to, as_json=json_)
    if code != OK:
        raise typer.Exit(code)


def rewrap_and_tell(folder: Path, url: str, *, as_json: bool = False) -> int:
    """Rewrap, have it recorded, print what came of it; return the exit code.

    Raises:
        KeymixerError: nothing was moved, or it was interrupted: call it again.
    """
    from parties.key_holder.rewrapping import record_rewrap, rewrap_folder

    done = rewrap_folder(folder, url)
    why = ""
    try:
        record_rewrap(folder, done)
    except KeymixerError as error:
        why = str(error)
    if as_json:
        print_json(_fields(done, why))
    else:
        say("\n".join(_sentences(done, why)))
    if done.broken:
        return FAILED
    return UNAVAILABLE if why else OK


def _fields(done: "Rewrapped", why_not: str) -> dict[str, object]:
    return {
        "kek": done.kek_id,
        "key_versions": done.key_versions,
        "embeddings": done.embeddings,
        "moved": done.moved,
        "broken": list(done.broken),
        "remains": done.remains,
        "recorded": not why_not,
        "why_not": why_not,
    }


def _sentences(done: "Rewrapped", why_not: str) -> list[str]:
    kept = f"{done.key_versions} key versions and {done.embeddings} embeddings"
    said = [f"{kept} are under {done.kek_id} now; {done.moved} were moved just now"]
    if done.broken:
        said.append(
            "these do not open and were left as they are; restore them from a backup: "
            + ", ".join(done.broken)
        )
    if done.remains:
        said.append(
            "keys wrapped under the former one may remain in the database's log or in"
            " old versions of its rows; run it again, or on PostgreSQL VACUUM"
        )
    if why_not:
        said.append(f"not recorded in the audit log yet: {why_not}; run it again")
    return said
