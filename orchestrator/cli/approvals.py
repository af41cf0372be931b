"""`keymixer approvals list | approve | reject`: what two operators must want."""

from typing import Annotated, Final

import typer

from core.console import EXIT_CODES, print_rows
from orchestrator.cli.options import LATEST, As, AsJson, Reason, Run
from orchestrator.cli.session import ask, tell

app = typer.Typer()

ApprovalId = Annotated[int, typer.Argument(help="The approval's number.", min=1)]
_COLUMNS: Final = {
    "id": "approval",
    "action": "action",
    "what": "what",
    "requested_by": "asked by",
    "approved_by": "wanted by",
    "state": "state",
    "ends": "ends",
}
_MEANS: Final = {
    "executed": "it is done",
    "approved": "whoever asked for it may give the same command again",
    "pending": "it waits for one more operator",
}


@app.callback(invoke_without_command=True, epilog=EXIT_CODES)
def approvals(
    context: typer.Context, run: Run = LATEST, *, as_: As = "", json_: AsJson = False
) -> None:
    """List the requests that wait for another operator, or approve or reject one.

    Example: keymixer approvals
    """
    if context.invoked_subcommand is None:
        list_(run, as_=as_, json_=json_)


@app.command("list", epilog=EXIT_CODES)
def list_(
    run: Run = LATEST,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Also those that ended.")] = False,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """List requests that need two operators: those that wait, unless --all is given.

    Example: keymixer approvals list
    """
    from orchestrator.cli.rows import approval_fields, approval_row

    found = ask(run, as_, lambda operator: operator.approvals(open_only=not all_))
    rows = [approval_fields(one) if json_ else approval_row(one) for one in found]
    print_rows("Approvals", rows, _COLUMNS, as_json=json_)


@app.command(epilog=EXIT_CODES)
def approve(
    approval_id: ApprovalId, run: Run = LATEST, *, as_: As = "", json_: AsJson = False
) -> None:
    """Approve another operator's request; with the second one, it is done.

    Example: keymixer approvals approve 3 --as auditors
    """
    from orchestrator.cli.rows import approval_fields

    done = ask(run, as_, lambda operator: operator.approve(approval_id))
    means = _MEANS.get(done.state, "see `keymixer approvals list --all`")
    told = f"approval {done.id} ({done.action}) is {done.state}: {means}"
    tell(approval_fields(done), told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def reject(
    approval_id: ApprovalId,
    reason: Reason,
    run: Run = LATEST,
    *,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Reject a request, your own or another operator's; nothing is done.

    Example: keymixer approvals reject 3 --reason "not agreed on"
    """
    from orchestrator.cli.rows import approval_fields

    done = ask(run, as_, lambda operator: operator.reject(approval_id, reason))
    told = f"approval {done.id} ({done.action}) is {done.state}"
    tell(approval_fields(done), told, as_json=json_)
