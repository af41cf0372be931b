"""`keymixer parties | models | issued`: what the registry holds."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from core.console import EXIT_CODES, print_rows
from orchestrator.cli.options import LATEST, AsJson, Run

if TYPE_CHECKING:
    from orchestrator.operator import Operator

app = typer.Typer()


@app.command(epilog=EXIT_CODES)
def parties(run: Run = LATEST, *, json_: AsJson = False) -> None:
    """List the parties of a running federation.

    Example: keymixer parties --json
    """
    rows = [
        {
            "organisation": party.organisation,
            "role": party.role,
            "state": party.state,
            "spiffe_id": party.spiffe_id,
            "signing_key": party.signing_key.hex(),
        }
        for party in ask(run, lambda operator: operator.parties())
    ]
    columns = {
        "organisation": "organisation",
        "role": "role",
        "state": "state",
        "spiffe_id": "identity",
    }
    print_rows("Parties", rows, columns, as_json=json_)


@app.command(epilog=EXIT_CODES)
def models(run: Run = LATEST, *, json_: AsJson = False) -> None:
    """List the model versions, with what they score and their aliases.

    Example: keymixer models --json
    """
    rows = []
    for version in ask(run, lambda operator: operator.models()):
        manifest = json.loads(version.manifest)
        rows.append(
            {
                "name": version.name,
                "version": version.version,
                "aliases": ", ".join(version.aliases),
                "provider": version.provider,
                "metrics": _metrics(manifest["metrics"]),
                "created": when(version.created_at_ms),
                "manifest": manifest,
            }
        )
    columns = {
        "name": "model",
        "version": "version",
        "aliases": "aliases",
        "metrics": "metrics",
        "created": "created",
    }
    print_rows("Models", rows, columns, as_json=json_)


@app.command(epilog=EXIT_CODES)
def issued(run: Run = LATEST, *, json_: AsJson = False) -> None:
    """List the issued models: which key reads which model version.

    Example: keymixer issued --json
    """
    rows = [
        {
            "key_id": one.key_id,
            "key_version": one.key_version,
            "model": one.model,
            "model_version": one.model_version,
            "state": one.state,
            "digest": one.digest.hex(),
            "created": when(one.created_at_ms),
        }
        for one in ask(run, lambda operator: operator.issued())
    ]
    columns = {
        "key_id": "key",
        "key_version": "key version",
        "model": "model",
        "model_version": "model version",
        "state": "state",
        "created": "created",
    }
    print_rows("Issued models", rows, columns, as_json=json_)


def ask(run: Path, question: "Callable[[Operator], Sequence[Any]]") -> Sequence[Any]:
    """Ask the orchestrator of a run as its operator."""
    from core.rpc.identity import OPERATOR
    from orchestrator.operator import operator
    from orchestrator.simulation.workspace import open_workspace

    with operator(open_workspace(run).server_folder(OPERATOR)) as connected:
        return question(connected)


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def when(milliseconds: int) -> str:
    """A time for the eye, in UTC."""
    moment = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
