"""The `keymixer` command: its groups of commands, and how it ends.

Other packages add commands through the entry point group `keymixer.commands`, so that
this one imports no party. Nothing heavy is imported before a command runs: a data owner
has neither torch nor SQLAlchemy.
"""

import sys
from importlib.metadata import entry_points

import typer

from core.console import EXIT_CODES, exit_code, print_error
from core.errors import KeymixerError
from orchestrator.cli import audit, federation, registry


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
    for group in (federation.app, registry.app):
        app.add_typer(group)
    app.add_typer(audit.app, name="audit")
    for entry in entry_points(group="keymixer.commands"):
        app.add_typer(entry.load())
    return app


def main() -> None:
    """Run the command; every error of ours ends in one line and a next step."""
    try:
        build()()
    except KeymixerError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(exit_code(error))
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"error: this command needs {error.name!r}, which is not installed\n"
            "next: pip install 'keymixer[simulation]'\n"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
