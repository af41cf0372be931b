"""What encrypting a picture costs, and what its form on the wire changes."""

from pathlib import Path
from typing import Annotated

import typer

from core.console import print_rows
from orchestrator.cli.options import AsJson


def encrypt(
    patch: Annotated[
        int, typer.Option(min=1, help="The side of a patch, in pixels.")
    ] = 4,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often both are measured, in turns.")
    ] = 30,
    *,
    json_: AsJson = False,
) -> None:
    """Say what encrypting costs an owner, beside one bare product of the same shape.

    docs/speed.md explains the figures.

    Example: keymixer bench encrypt --patch 8
    """
    from orchestrator.bench.encrypting import measure_encrypting

    rows = measure_encrypting(patch, rounds)
    columns = {name: name.replace("_", " ") for name in rows[0]}
    print_rows("Encrypting pictures of 32 x 32", rows, columns, as_json=json_)


def wire(
    release: Annotated[Path, typer.Option(help="The folder of a trained release.")],
    data: Annotated[str, typer.Option(help="The data it was trained on.")] = "cifar10",
    *,
    json_: AsJson = False,
) -> None:
    """Say how accurate answers are with blocks sent as float32, float16 and bytes.

    docs/wire.md explains the figures.

    Example: keymixer bench wire --release runs/latest/modelworks/releases/cells
    """
    from orchestrator.bench.wire import measure_wire

    rows = measure_wire(release, data)
    columns = {name: name.replace("_", " ") for name in rows[0]}
    print_rows("On the wire", rows, columns, as_json=json_)
