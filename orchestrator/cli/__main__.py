"""The `keymixer` command: its groups of commands, and how it ends.

Other packages add commands through the entry point group `keymixer.commands`, so that
this one imports no party. Nothing heavy is imported before a command runs: a data owner
has neither torch nor SQLAlchemy.
"""

import sys
from importlib.metadata import entry_points, version
from typing import Annotated, NoReturn

import typer

from core.console import EXIT_CODES, exit_code, print_error
from core.errors import ConfigurationError, KeymixerError, StorageError
from orchestrator.cli import (
    approvals,
    audit,
    bench,
    budgets,
    federation,
    issued,
    jobs,
    keys,
    leakage,
    models,
    parties,
)


def build() -> typer.Typer:
    """Put the command together."""
    app = typer.Typer(
        name="keymixer",
        help="Private image classification between organisations, by a keyed transform."
        "\n\nIt hides pictures from casual viewing; it is no protection against an "
        "inference server that attacks.",
        epilog=EXIT_CODES,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def options(
        *,
        _show: Annotated[
            bool,
            typer.Option(
                "--version", callback=_version, is_eager=True, help="Say which."
            ),
        ] = False,
    ) -> None:
        """Take the options that stand before a command."""

    for group in (federation.app, issued.app, leakage.app):
        app.add_typer(group)
    groups = {
        "keys": keys.build(),
        "jobs": jobs.app,
        "approvals": approvals.app,
        "models": models.build(),
        "parties": parties.app,
        "budgets": budgets.app,
        "audit": audit.app,
        "bench": bench.app,
    }
    for name, group in groups.items():
        app.add_typer(group, name=name)
    for entry in entry_points(group="keymixer.commands"):
        app.add_typer(entry.load())
    return app


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"keymixer {version('keymixer')}\n")
        raise typer.Exit


def main() -> None:
    """Run the command; every error of ours ends in one line and a next step."""
    try:
        build()()
    except KeymixerError as error:
        _end(error)
    except ModuleNotFoundError as error:
        _end(NotInstalledError(f"this command needs {error.name!r}"))
    except OSError as error:
        # A full disk, a folder of somebody else: the message names the path.
        path = f"{error.filename}: " if error.filename else ""
        _end(StorageError(f"{path}{error.strerror or error}"))


class NotInstalledError(ConfigurationError):
    """A command needs a package that this installation is without."""

    hint = "pip install 'keymixer[simulation]', from a checkout '.[simulation]'"


def _end(error: KeymixerError) -> NoReturn:
    print_error(error, as_json="--json" in sys.argv)
    sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
