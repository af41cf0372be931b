"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Run = Annotated[
    Path, typer.Option("--run", help="The run's folder.", envvar="KEYMIXER_RUN")
]
LATEST = RUNS / "latest"
