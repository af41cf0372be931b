"""`keymixer models`: the releases there are, and which one is used."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Final

import typer

from core.console import EXIT_CODES, print_rows
from orchestrator.cli import model_views
from orchestrator.cli.options import LATEST, As, AsJson, Run
from orchestrator.cli.session import ask, connected, tell
from orchestrator.cli.times import when

app = typer.Typer()

_ISSUED: Final = frozenset({"champion", "candidate"})
_COLUMNS: Final = {
    "name": "model",
    "version": "version",
    "aliases": "aliases",
    "metrics": "metrics",
    "created": "created",
    "exposed": "exposed",
    "embedding": "embedding",
}


def build() -> typer.Typer:
    """Put the group together; parties' packages add commands of their own to it."""
    group = typer.Typer(callback=models, invoke_without_command=True, epilog=EXIT_CODES)
    for part in (app, model_views.app):
        group.add_typer(part)
    for entry in entry_points(group="keymixer.commands.models"):
        group.add_typer(entry.load())
    return group


def models(
    context: typer.Context, run: Run = LATEST, *, as_: As = "", json_: AsJson = False
) -> None:
    """List the model versions, see or compare some, alias one, or import another's.

    Example: keymixer models --json
    """
    if context.invoked_subcommand is None:
        _list(run, as_, as_json=json_)


@app.command("list", epilog=EXIT_CODES)
def list_(run: Run = LATEST, *, as_: As = "", json_: AsJson = False) -> None:
    """List the model versions, with what they score and their aliases.

    One is exposed if its plain embedding must be presumed known: a key leaked. One
    whose embedding is public was known from the start: keys for it hide nothing from
    the server, and it is issued only if policies.allow_public_embeddings says so.

    Example: keymixer models list
    """
    _list(run, as_, as_json=json_)


@app.command(epilog=EXIT_CODES)
def alias(
    model: Annotated[str, typer.Argument(help="The model.")],
    name: Annotated[str, typer.Argument(help="The alias, such as champion.")],
    version: Annotated[int, typer.Argument(help="The version it names now.", min=1)],
    run: Run = LATEST,
    *,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Let an alias name a version; the `champion` is issued for every key in use.

    So is the `candidate`, which a share of the requests asks: docs/models.md.

    Example: keymixer models alias convmixer champion 2
    """
    from orchestrator.cli.model_names import ModelName, resolve

    with connected(run, as_) as session:
        resolve(session.operator, ModelName(model, version))
        session.operator.set_alias(model, name, version)
    content = {"model": model, "alias": name, "version": version}
    told = f"{name} of {model} is version {version} now"
    if name in _ISSUED:
        told += "; for which keys it is issued: keymixer issued"
    tell(content, told, as_json=json_)


def _list(run: Path, as_: str, *, as_json: bool) -> None:
    rows = []
    for version in ask(run, as_, lambda operator: operator.models()):
        manifest = json.loads(version.manifest)
        rows.append(
            {
                "name": version.name,
                "version": version.version,
                "aliases": ", ".join(version.aliases),
                "provider": version.provider,
                "metrics": _metrics(manifest["metrics"]),
                "created": when(version.created_at_ms),
                "exposed": when(version.exposed_at_ms),
                "embedding": "public" if version.public_embedding else "secret",
                "public_embedding": version.public_embedding,
                "manifest": manifest,
            }
        )
    print_rows("Models", rows, _COLUMNS, as_json=as_json)


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
