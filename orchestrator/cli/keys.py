"""`keymixer keys`: every key version and its state; rotate and revoke. Never a key."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from core.console import EXIT_CODES, print_json, print_rows
from core.errors import NotFound
from orchestrator.cli.options import LATEST, AsJson, Run
from orchestrator.cli.registry import ask, when

if TYPE_CHECKING:
    from orchestrator.operator import Operator
    from orchestrator.simulation.workspace import Workspace

app = typer.Typer()

Owner = Annotated[str, typer.Argument(help="The data owner's organisation.")]
Model = Annotated[str, typer.Option(help="The model; default: the federation's first.")]


@app.callback(invoke_without_command=True, epilog=EXIT_CODES)
def keys(context: typer.Context, run: Run = LATEST, *, json_: AsJson = False) -> None:
    """List the key versions and their states, or rotate or revoke a key.

    Example: keymixer keys
    """
    if context.invoked_subcommand is None:
        _list(run, as_json=json_)


@app.command("list", epilog=EXIT_CODES)
def list_(run: Run = LATEST, *, json_: AsJson = False) -> None:
    """List the key versions and their states.

    Example: keymixer keys list --json
    """
    _list(run, as_json=json_)


@app.command(epilog=EXIT_CODES)
def create(
    owner: Owner, run: Run = LATEST, *, model: Model = "", json_: AsJson = False
) -> None:
    """Have a key drawn for an owner that has none, or whose key was revoked.

    A new key does not undo a leak: see docs/threat-model.md, "When something leaks".

    Example: keymixer keys create st-anna
    """
    with _connected(run, owner, model) as (operator, _, spiffe, named):
        operator.grant(spiffe, named)
        key_id, version = operator.create_key(spiffe, named)
    told = f"{key_id} version {version} is on its way: see `keymixer keys`"
    _tell({"key_id": key_id, "version": version}, told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def rotate(
    owner: Owner,
    run: Run = LATEST,
    *,
    model: Model = "",
    overlap: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds the old version is served after the new one is live; "
            "default: the federation's policy.",
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Have a new version of an owner's key drawn; the old one stays for the overlap.

    The owner's client fetches the new version by itself the next time it asks.

    Example: keymixer keys rotate st-anna --overlap 600
    """
    with _connected(run, owner, model) as (operator, workspace, spiffe, named):
        policy = workspace.federation.policies.rotation_overlap_s
        key_id, version = operator.rotate_key(
            spiffe, named, policy if overlap is None else overlap
        )
    told = f"{key_id} version {version} is on its way: see `keymixer keys`"
    _tell({"key_id": key_id, "version": version}, told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def revoke(
    owner: Owner,
    reason: Annotated[str, typer.Option(help="Why; it is put on record.")],
    run: Run = LATEST,
    *,
    model: Model = "",
    json_: AsJson = False,
) -> None:
    """End an owner's key at once: its next request is refused, then it is destroyed.

    `keymixer keys create` has another one drawn.

    Pictures that were sent already are not protected by this.

    Example: keymixer keys revoke st-anna --reason "contract ended"
    """
    if not reason.strip():
        raise typer.BadParameter("say why; it is put on record", param_hint="--reason")
    with _connected(run, owner, model) as (operator, _, spiffe, named):
        versions = operator.revoke_key(spiffe, named, reason)
    told = (
        f"revoked: {', '.join(f'version {v}' for v in versions) or 'nothing was left'}"
    )
    _tell({"owner": owner, "versions": versions}, told, as_json=json_)


@contextmanager
def _connected(
    run: Path, owner: str, model: str
) -> Iterator["tuple[Operator, Workspace, str, str]"]:
    """The operator, the run, the owner's identity, and the model that is meant."""
    from core.rpc.identity import DATA_OWNER, OPERATOR
    from orchestrator.operator import operator
    from orchestrator.simulation.workspace import open_workspace

    workspace = open_workspace(run)
    owners = workspace.federation.organisations_with(DATA_OWNER)
    if owner not in owners:
        raise NotFound(f"{owner} is no data owner here; there are {', '.join(owners)}")
    named = model or workspace.federation.models[0].name
    with operator(workspace.server_folder(OPERATOR)) as connected:
        yield connected, workspace, str(workspace.owner(owner)), named


def _list(run: Path, *, as_json: bool) -> None:
    rows = [
        {
            "key_id": key.key_id,
            "version": key.version,
            "owner": key.owner,
            "state": key.state,
            "primary": key.primary,
            "confirmed": key.confirmed,
            "generator": key.generator,
            "created": when(key.created_at_ms),
            "refused_from": when(key.retire_at_ms) if key.retire_at_ms else "",
            "commitment": key.commitment.hex(),
        }
        for key in ask(run, lambda operator: operator.key_versions())
    ]
    columns = {
        "key_id": "key",
        "version": "version",
        "state": "state",
        "primary": "primary",
        "created": "created",
        "refused_from": "refused from",
    }
    print_rows("Keys", rows, columns, as_json=as_json)


def _tell(content: dict[str, Any], told: str, *, as_json: bool) -> None:
    if as_json:
        print_json(content)
    else:
        Console().print(told, highlight=False, soft_wrap=True)
