"""`keymixer leakage`: attack the transform on pictures of one's own, and say so."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from core.console import (
    EXIT_CODES,
    INTERRUPTED,
    print_json,
    print_rows,
    progress_bar,
    say,
)
from orchestrator.cli.options import AsJson

app = typer.Typer()

_COLUMNS = {
    "name": "attack",
    "scheme": "scheme",
    "setting": "setting",
    "psnr": "PSNR dB",
    "ssim": "SSIM",
}


@app.command(epilog=EXIT_CODES)
def leakage(
    folder: Annotated[
        Path | None, typer.Argument(help="Pictures of your own, PNG or JPEG.")
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(help="Instead of a folder: cifar10, digits or an .npz."),
    ] = None,
    release: Annotated[
        Path | None,
        typer.Option(help="Attack what this release makes of them, and its embedding."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=12, max=500, help="How many pictures are attacked.")
    ] = 24,
    patch: Annotated[
        int, typer.Option(min=2, max=8, help="Without a release: a block's side.")
    ] = 4,
    size: Annotated[
        int, typer.Option(min=16, max=256, help="Without a release: a picture's side.")
    ] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Fixes every key and start.")] = 0,
    thorough: Annotated[
        bool,
        typer.Option("--thorough", help="More keys and starts: for figures, minutes."),
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", help="Where leakage.json and .html go.")
    ] = Path("leakage"),
    json_: AsJson = False,
) -> None:
    """Attack the transform on these pictures, and show what is recovered.

    The figures are a lower bound on an attacker. docs/leakage.md explains them.

    Example: keymixer leakage --data cifar10
    """
    if (folder is None) == (data is None):
        raise typer.BadParameter("give either a folder of pictures or --data")
    from orchestrator.leakage.pictures import Plan, prepare
    from orchestrator.leakage.run import ATTACKS, measure, write

    source = folder or str(data)
    plan = Plan(source, release, images, patch, size, seed, thorough)
    console = Console(stderr=True)
    try:
        material = prepare(plan, lambda *_: None)
        with progress_bar("attacks", len(ATTACKS)) as advance:
            report, findings = measure(material, str(source), lambda _: advance(1))
        page = write(out, report, findings)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if json_:
        print_json(report)
    else:
        print_rows("Recovered", report["attacks"], _COLUMNS, as_json=False)
        say(report["lower_bound"])
    console.print(f"Report: [bold]{page}[/bold]", soft_wrap=True)
