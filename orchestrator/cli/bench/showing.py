"""How every measurement runs and is shown: where it works, and what is printed."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from core.console import INTERRUPTED, print_json

Report = dict[str, Any]

Keep = Annotated[
    Path | None,
    typer.Option("--keep", help="Keep folders, databases and logs in this folder."),
]
Figure = Annotated[Path | None, typer.Option(help="Draw it, as SVG, into this file.")]


def measured(keep: Path | None, measure: Callable[[Path], Report]) -> Report:
    """Measure in the folder to keep, or in one that is gone afterwards.

    Raises:
        typer.Exit: somebody ended it; that is no error.
    """
    try:
        if keep is not None:
            return measure(keep)
        with tempfile.TemporaryDirectory(prefix="keymixer-bench-") as folder:
            return measure(Path(folder))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def show(
    report: Report, print_report: Callable[[Report], None], *, as_json: bool
) -> None:
    """Print it for programs, or as its own tables for people."""
    if as_json:
        print_json(report)
    else:
        print_report(report)


def machine_of(report: Report) -> dict[str, str]:
    """What it was measured on, as facts to print."""
    return {word: str(fact) for word, fact in report["machine"].items()}


def listed(figures: Mapping[str, float | None]) -> str:
    """Those that were measured, in one line."""
    known = {word: n for word, n in figures.items() if n is not None}
    return ", ".join(f"{word} {number:,g}" for word, number in known.items())
