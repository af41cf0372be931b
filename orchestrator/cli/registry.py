"""`keymixer models | issued`: what the registry holds, beside keys and parties."""

import json
from typing import Final

import typer

from core.console import EXIT_CODES, print_rows
from orchestrator.cli.options import LATEST, As, AsJson, Run
from orchestrator.cli.session import ask
from orchestrator.cli.times import when

app = typer.Typer()

_MODELS: Final = {
    "name": "model",
    "version": "version",
    "aliases": "aliases",
    "metrics": "metrics",
    "created": "created",
    "exposed": "exposed",
}
_ISSUED: Final = {
    "key_id": "key",
    "key_version": "key version",
    "model": "model",
    "model_version": "model version",
    "state": "state",
    "created": "created",
}


@app.command(epilog=EXIT_CODES)
def models(run: Run = LATEST, *, as_: As = "", json_: AsJson = False) -> None:
    """List the model versions, with what they score and their aliases.

    One is exposed if its plain embedding must be presumed known: a key leaked.

    Example: keymixer models --json
    """
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
                "manifest": manifest,
            }
        )
    print_rows("Models", rows, _MODELS, as_json=json_)


@app.command(epilog=EXIT_CODES)
def issued(run: Run = LATEST, *, as_: As = "", json_: AsJson = False) -> None:
    """List the issued models: which key reads which model version.

    Example: keymixer issued --json
    """
    from orchestrator.cli.rows import issued_fields

    found = ask(run, as_, lambda operator: operator.issued())
    rows = [issued_fields(one) for one in found]
    print_rows("Issued models", rows, _ISSUED, as_json=json_)


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
