"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from core.duration import parse_duration
from core.errors import ConfigurationError

RUNS = Path("runs")
LATEST = RUNS / "latest"
KEY_BYTES = 32


def duration(text: str | float) -> float:
    """Seconds, also of a default; what is no duration is wrong usage."""
    try:
        return parse_duration(str(text))
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error


def read_public_key(text: str) -> bytes:
    """An Ed25519 key in hex; what is none is wrong usage."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise typer.BadParameter(f"expected {2 * KEY_BYTES} hex digits")
    return key


class Each(StrEnum):
    """What a budget is for."""

    TOTAL = "total"
    DAY = "day"
    MONTH = "month"


def _said(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("say why; it is put on record")
    return text


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Run = Annotated[
    Path, typer.Option("--run", help="The run's folder.", envvar="KEYMIXER_RUN")
]
As = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="ORG",
        envvar="KEYMIXER_OPERATOR",
        help="The operator's organisation; default: the federation's first operator.",
    ),
]
Owner = Annotated[
    str,
    typer.Argument(help="A data owner's organisation, or the id of its key."),
]
Model = Annotated[
    str, typer.Option("--model", help="Default: the federation's first model.")
]
MaxImages = Annotated[
    int | None,
    typer.Option(
        "--max-images", min=0, help="The budget; default: the federation's policy."
    ),
]
Per = Annotated[
    Each, typer.Option("--per", help="What it is for: all time, or each in UTC.")
]
Version = Annotated[
    int, typer.Option("--version", help="The version of the key.", min=1)
]
Reason = Annotated[
    str,
    typer.Option("--reason", help="Why; it is put on record.", callback=_said),
]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Do not wait until the keys are live.")
]
Patience = Annotated[
    float,
    typer.Option(
        parser=duration,
        metavar="DURATION",
        show_default="10s",
        help="An owner that has not fetched its key for so long is not waited for.",
    ),
]
