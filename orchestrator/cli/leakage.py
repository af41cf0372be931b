"""`keymixer leakage`: attack the transform on pictures of one's own, and say so."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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
from orchestrator.cli.options import RUNS, AsJson

if TYPE_CHECKING:
    from orchestrator.leakage.joined import RunPlan
    from orchestrator.leakage.pictures import Plan

app = typer.Typer()

_YAML: Final = frozenset({".yaml", ".yml"})
_COLUMNS = {
    "name": "attack",
    "scheme": "scheme",
    "setting": "setting",
    "psnr": "PSNR dB",
    "ssim": "SSIM",
}


@app.command(epilog=EXIT_CODES)
def leakage(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of PNG or JPEG pictures of your own; a run's folder; or a "
            "scenario: its newest run, simulated if there is none.",
        ),
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            help="Instead of a folder: cifar10, digits or an .npz. Of a run: what the "
            "attackers' public pictures are drawn from."
        ),
    ] = None,
    release: Annotated[
        Path | None,
        typer.Option(help="Attack what this release makes of them, and its embedding."),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(help="Of a run: whose pictures; default: its first owner's."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=12, max=500, help="How many pictures are attacked.")
    ] = 24,
    patch: Annotated[
        int, typer.Option(min=2, max=16, help="Without a release: a block's side.")
    ] = 4,
    size: Annotated[
        int, typer.Option(min=16, max=256, help="Without a release: a picture's side.")
    ] = 32,
    shield: Annotated[
        str,
        typer.Option(
            help="Without a release: what is removed or drowned before the key: "
            "highpass:K, magnitude:K or noise:SIGMA."
        ),
    ] = "none",
    seed: Annotated[int, typer.Option(min=0, help="Fixes every key and start.")] = 0,
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = RUNS,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough",
            help="More keys and starts, and attacks that learn: for figures; many "
            "minutes.",
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", help="Where leakage.json and .html go.")
    ] = Path("leakage"),
    json_: AsJson = False,
) -> None:
    """Attack the transform on these pictures, and show what is recovered.

    On a run also what each coalition of its parties recovers: their folders are opened
    as each of them could, keys included, in this process alone. The figures are a lower
    bound on an attacker. docs/leakage.md explains them.

    Example: keymixer leakage --data cifar10
    """
    federated = source is not None and _is_federation(source)
    _require_together(
        federated,
        pictures=(source is None) != (data is None),
        release=release is not None,
        owner=owner is not None,
        shield=shield != "none",
    )
    console = Console(stderr=True)
    try:
        if federated and source is not None:
            from orchestrator.leakage.joined import RunPlan

            run = _run_of(source, runs, console)
            plan = RunPlan(run, owner, data, images, seed, thorough)
            report, page = _attack_run(plan, out)
        else:
            from orchestrator.leakage.pictures import Plan

            what = source or str(data)
            wanted = Plan(what, release, images, patch, size, seed, thorough, shield)
            report, page = _attack_pictures(wanted, out)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if json_:
        print_json(report)
    else:
        _print(report)
    console.print(f"Report: [bold]{page}[/bold]", soft_wrap=True)


def _require_together(
    federated: bool, *, pictures: bool, release: bool, owner: bool, shield: bool
) -> None:
    """Refuse options that do not belong together; each says whether it is given."""
    refused = {
        "give either a folder of pictures or --data": not (pictures or federated),
        "a run has its own release: no --release": federated and release,
        "a release has its own shield, or none: no --shield": (
            shield and (federated or release)
        ),
        "--owner is of a run": owner and not federated,
    }
    for why, holds in refused.items():
        if holds:
            raise typer.BadParameter(why)


def _is_federation(source: Path) -> bool:
    """Whether it is a scenario, or the folder of a run."""
    return source.suffix in _YAML or (source / "federation.yaml").is_file()


def _run_of(source: Path, runs: Path, console: Console) -> Path:
    """The folder of a run, or a scenario's newest one, simulated if there is none."""
    from orchestrator.leakage.joined import find_run
    from orchestrator.simulation.run import simulate

    if source.is_dir():
        return source
    return find_run(source, runs) or simulate(source, runs, console=console)


def _attack_pictures(plan: "Plan", out: Path) -> tuple[dict[str, Any], Path]:
    from orchestrator.leakage.pictures import prepare
    from orchestrator.leakage.run import ATTACKS, measure, see_through, write

    material = prepare(plan, lambda *_: None)
    with progress_bar("attacks", len(ATTACKS) + 1) as advance:
        report, findings = measure(material, str(plan.source), lambda _: advance(1))
        behind = see_through(material, report)
        advance(1)
    return report, write(out, report, findings, (), behind)


def _attack_run(plan: "RunPlan", out: Path) -> tuple[dict[str, Any], Path]:
    from orchestrator.leakage.joined import read_run
    from orchestrator.leakage.run import (
        ATTACKS,
        ROWS,
        join,
        measure,
        see_through,
        write,
    )

    joined = read_run(plan, lambda *_: None)
    with progress_bar("attacks", len(ATTACKS) + ROWS) as advance:
        title = f"run {plan.root.resolve().name}"
        report, findings = measure(joined.material, title, lambda _: advance(1))
        behind = see_through(joined.material, report)
        rows = join(joined, report, lambda _: advance(1))
    return report, write(out, report, findings, rows, behind)


def _print(report: Mapping[str, Any]) -> None:
    print_rows("Recovered", report["attacks"], _COLUMNS, as_json=False)
    for each in report["left_out"]:
        say(f"Not run: {each['name']}: {each['why']}")
    _print_shield(report["shield"])
    if report["coalitions"]:
        from orchestrator.leakage.coalition_rows import COLUMNS, words

        rows = [words(row) for row in report["coalitions"]]
        print_rows("Who joins forces", rows, COLUMNS, as_json=False)
    say(report["lower_bound"])


def _print_shield(shield: Mapping[str, Any]) -> None:
    left = f"{shield['sent']} of {shield['numbers']} numbers a block"
    share = f"{100 * shield['variance_left']:.1f} % of the variance"
    title = f"With the key; shield {shield['spec']}: {left}, {share}"
    print_rows(title, shield["attacks"], _COLUMNS, as_json=False)
    for each in shield["left_out"]:
        say(f"Not run: {each['name']}: {each['why']}")
