"""`keymixer parties list | revoke`: who takes part."""

from pathlib import Path
from typing import Annotated, Final

import typer

from core.console import EXIT_CODES, print_rows
from core.errors import NotFound
from orchestrator.cli.options import LATEST, As, AsJson, Reason, Run
from orchestrator.cli.session import ask, connected, tell_outcome

app = typer.Typer()

_COLUMNS: Final = {
    "organisation": "organisation",
    "role": "role",
    "state": "state",
    "spiffe_id": "identity",
}


@app.callback(invoke_without_command=True, epilog=EXIT_CODES)
def parties(
    context: typer.Context, run: Run = LATEST, *, as_: As = "", json_: AsJson = False
) -> None:
    """List the parties of a running federation, or expel one.

    Example: keymixer parties --json
    """
    if context.invoked_subcommand is None:
        _list(run, as_, as_json=json_)


@app.command("list", epilog=EXIT_CODES)
def list_(run: Run = LATEST, *, as_: As = "", json_: AsJson = False) -> None:
    """List the parties of a running federation.

    Example: keymixer parties list
    """
    _list(run, as_, as_json=json_)


@app.command(epilog=EXIT_CODES)
def revoke(
    organisation: Annotated[str, typer.Argument(help="The organisation.")],
    role: Annotated[str, typer.Argument(help="The role it plays no longer.")],
    reason: Reason,
    run: Run = LATEST,
    *,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Expel a party: its calls are refused at once, and its keys are revoked.

    Connections it has open are not served any longer. It cannot be taken back.

    Example: keymixer parties revoke st-anna data-owner --reason "contract ended"
    """
    with connected(run, as_) as session:
        federation = session.workspace.federation
        known = federation.organisations_with(role)
        if organisation not in known:
            named = ", ".join(known) or "none"
            raise NotFound(f"{organisation} is no {role} here; there are: {named}")
        party = str(federation.spiffe(organisation, role))
        done = session.operator.revoke_party(party, reason)
        content = {
            "spiffe_id": party,
            "key_ids": list(done.key_ids),
            "approval_id": done.approval_id,
        }
        keys = f"; keys revoked: {', '.join(done.key_ids)}" if done.key_ids else ""
        told = f"{organisation} ({role}) is revoked: its calls are refused{keys}"
        tell_outcome(session, content, told, as_json=json_)


def _list(run: Path, as_: str, *, as_json: bool) -> None:
    rows = [
        {
            "organisation": party.organisation,
            "role": party.role,
            "state": party.state,
            "spiffe_id": party.spiffe_id,
            "signing_key": party.signing_key.hex(),
        }
        for party in ask(run, as_, lambda operator: operator.parties())
    ]
    print_rows("Parties", rows, _COLUMNS, as_json=as_json)
