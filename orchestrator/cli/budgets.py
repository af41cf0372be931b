"""`keymixer budgets list | set | raise | lift`: how many images may be answered."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from core.console import EXIT_CODES, print_rows
from core.errors import NotFound
from orchestrator.cli.options import LATEST, As, AsJson, Each, Model, Owner, Per, Run
from orchestrator.cli.session import KeyName, Session, ask, connected, tell

if TYPE_CHECKING:
    from protos.registry_pb2 import Grant

app = typer.Typer()

Images = Annotated[int, typer.Argument(help="How many images.", min=0)]
_COLUMNS: Final = {
    "owner": "owner",
    "model": "model",
    "budget": "budget",
    "images_used": "used",
    "left": "left",
    "renews": "begins anew (UTC)",
}


@app.callback(invoke_without_command=True, epilog=EXIT_CODES)
def budgets(
    context: typer.Context, run: Run = LATEST, *, as_: As = "", json_: AsJson = False
) -> None:
    """List the budgets of images, or set, raise or lift one.

    Example: keymixer budgets
    """
    if context.invoked_subcommand is None:
        _list(run, as_, as_json=json_)


@app.command("list", epilog=EXIT_CODES)
def list_(run: Run = LATEST, *, as_: As = "", json_: AsJson = False) -> None:
    """List who may have how many images answered: used, and left.

    Example: keymixer budgets list --json
    """
    _list(run, as_, as_json=json_)


@app.command("set", epilog=EXIT_CODES)
def set_(
    owner: Owner,
    images: Images,
    run: Run = LATEST,
    *,
    per: Per = Each.TOTAL,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Allow an owner so many images; what is used already counts.

    Fewer than are used is refused. With another --per counting begins anew.

    Example: keymixer budgets set st-anna 10000 --per day
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        session.operator.set_budget(key.owner, key.model, images, per)
        _tell(session, key, as_json=json_)


@app.command("raise", epilog=EXIT_CODES)
def raise_(
    owner: Owner,
    images: Images,
    run: Run = LATEST,
    *,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Allow an owner so many images more than before.

    Example: keymixer budgets raise st-anna 500
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        now = _grant(session, key)
        if not now.HasField("max_images"):
            raise NotFound(f"{key.organisation} has no budget for {key.model}: set one")
        session.operator.set_budget(
            key.owner,
            key.model,
            now.max_images + images,
            now.period,
            instead_of=now.max_images,
        )
        _tell(session, key, as_json=json_)


@app.command(epilog=EXIT_CODES)
def lift(
    owner: Owner,
    run: Run = LATEST,
    *,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Set an owner no limit any longer; its images are counted as before.

    Example: keymixer budgets lift st-anna
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        session.operator.set_budget(key.owner, key.model, None, "")
        _tell(session, key, as_json=json_)


def _list(run: Path, as_: str, *, as_json: bool) -> None:
    from orchestrator.cli.rows import grant_fields, grant_row

    shown = grant_fields if as_json else grant_row
    rows = [shown(grant) for grant in ask(run, as_, lambda one: one.grants())]
    print_rows("Budgets", rows, _COLUMNS, as_json=as_json)


def _tell(session: Session, key: KeyName, *, as_json: bool) -> None:
    from orchestrator.cli.rows import budget_in_words, grant_fields

    grant = _grant(session, key)
    told = (
        f"{key.organisation} may have images of {key.model} answered: "
        f"{budget_in_words(grant)}; {grant.images_used:,} used"
    )
    tell(grant_fields(grant), told, as_json=as_json)


def _grant(session: Session, key: KeyName) -> "Grant":
    for grant in session.operator.grants(key.owner):
        if grant.model == key.model:
            return grant
    raise NotFound(f"{key.organisation} was never granted {key.model}")
