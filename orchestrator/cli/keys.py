"""`keymixer keys`: its group; and `list | show | history`, to see what there is."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from core.console import EXIT_CODES, print_facts, print_json, print_rows, say
from core.errors import NotFound
from orchestrator.cli import key_actions, new_keys
from orchestrator.cli.options import LATEST, As, AsJson, Model, Owner, Run
from orchestrator.cli.session import KeyName, Session, connected
from orchestrator.cli.times import now_ms

if TYPE_CHECKING:
    from orchestrator.cli.outlook import Outlook
    from protos.registry_pb2 import Grant, IssuedModel, KeyVersion, ModelVersion

app = typer.Typer()

All = Annotated[
    bool, typer.Option("--all", help="Also versions that are destroyed already.")
]
_KEYS: Final = {
    "key_id": "key",
    "version": "v",
    "state": "state",
    "age": "age",
    "images_used": "images",
    "next": "next",
}
_VERSIONS: Final = {
    "version": "v",
    "state": "state",
    "primary": "primary",
    "age": "age",
    "images_used": "images",
    "next": "next",
    "reason": "reason",
}
_ISSUED: Final = {
    "key_version": "key version",
    "model_version": "model version",
    "state": "state",
    "created": "created (UTC)",
}
_JOBS: Final = {
    "id": "job",
    "kind": "kind",
    "state": "state",
    "step": "step",
    "next": "next",
}


def build() -> typer.Typer:
    """Put the group together; parties' packages add commands of their own to it."""
    group = typer.Typer(callback=keys, invoke_without_command=True, epilog=EXIT_CODES)
    for part in (app, new_keys.app, key_actions.app):
        group.add_typer(part)
    for entry in entry_points(group="keymixer.commands.keys"):
        group.add_typer(entry.load())
    return group


def keys(
    context: typer.Context, run: Run = LATEST, *, as_: As = "", json_: AsJson = False
) -> None:
    """List the keys, see one, or have one rotated, revoked or recovered.

    Example: keymixer keys
    """
    if context.invoked_subcommand is None:
        _list(run, as_, everything=False, as_json=json_)


@app.command("list", epilog=EXIT_CODES)
def list_(
    run: Run = LATEST, *, all_: All = False, as_: As = "", json_: AsJson = False
) -> None:
    """List the key versions: state, age, images used, what happens next and when.

    With --json, versions that are destroyed are listed too.

    Example: keymixer keys list --all
    """
    _list(run, as_, everything=all_, as_json=json_)


@app.command(epilog=EXIT_CODES)
def show(
    owner: Owner,
    run: Run = LATEST,
    *,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Show all there is about one key: versions, issued models, open jobs, policy.

    And the leakage card of each issued model: what attacks recovered of the provider's
    own pictures, and what a server has seen since. It is a lower bound on an attacker.

    Example: keymixer keys show st-anna
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        versions, outlook = _versions(session)
        issued = [one for one in session.operator.issued() if one.key_id == key.key_id]
        models = session.operator.models(key.model)
        grants = session.operator.grants(key.owner)
    grant = next((one for one in grants if one.model == key.model), None)
    versions = [version for version in versions if version.key_id == key.key_id]
    if not versions:
        raise NotFound(f"{key.organisation} has no key for {key.model} yet")
    given = (session, key, versions, issued, outlook)
    if json_:
        _print_whole(*given, grant=grant, models=models)
    else:
        _show_whole(*given, grant=grant, models=models)


@app.command(epilog=EXIT_CODES)
def history(
    owner: Owner,
    run: Run = LATEST,
    *,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Tell the life of one key, oldest first, as the audit log has it: who, what, why.

    Single answers are left out: see `keymixer audit list --kind inference`.

    Example: keymixer keys history st-anna
    """
    from orchestrator.cli.history import records_of, told

    with connected(run, as_) as session:
        records = records_of(session.operator, session.key(owner, model))
    rows = records if json_ else [told(record) for record in records]
    columns = {"index": "record", "time": "time (UTC)", "who": "who", "what": "what"}
    print_rows("History", rows, columns, as_json=json_)


def _list(run: Path, as_: str, *, everything: bool, as_json: bool) -> None:
    from orchestrator.cli.rows import key_fields, key_row

    with connected(run, as_) as session:
        versions, outlook = _versions(session)
    if as_json:
        print_json([key_fields(version, outlook) for version in versions])
        return
    shown = [v for v in versions if everything or v.state != "destroyed"]
    print_rows("Keys", [key_row(v, outlook) for v in shown], _KEYS, as_json=False)
    _footnotes(len(versions) - len(shown), outlook)


def _versions(session: Session) -> "tuple[list[KeyVersion], Outlook]":
    from orchestrator.cli.outlook import Outlook

    jobs = list(session.operator.jobs(open_only=True))
    outlook = Outlook(jobs, session.policies.rotation, now_ms())
    return session.operator.key_versions(), outlook


def _footnotes(hidden: int, outlook: "Outlook") -> None:
    if hidden:
        say(f"{hidden} destroyed, not shown: keymixer keys list --all")
    stuck = [job.id for job in outlook.jobs if job.state == "needs_operator"]
    if len(stuck) == 1:
        say(f"job {stuck[0]} needs an operator: keymixer jobs show {stuck[0]}")
    elif stuck:
        say(f"{len(stuck)} jobs need an operator: keymixer jobs list")


def _print_whole(
    session: Session,
    key: KeyName,
    versions: "Sequence[KeyVersion]",
    issued: "Sequence[IssuedModel]",
    outlook: "Outlook",
    *,
    grant: "Grant | None",
    models: "Sequence[ModelVersion]",
) -> None:
    from orchestrator.cli.rows import (
        grant_fields,
        issued_fields,
        job_fields,
        key_fields,
    )
    from orchestrator.leakage.cards import cards_of

    cards = cards_of(issued, models, session.policies.leakage)
    print_json(
        {
            "key_id": key.key_id,
            "owner": key.owner,
            "model": key.model,
            "grant": grant_fields(grant) if grant else None,
            "policy": session.policies.model_dump(mode="json", exclude={"grants"}),
            "versions": [key_fields(version, outlook) for version in versions],
            "issued": [
                {**issued_fields(one), "leakage": card}
                for one, card in zip(issued, cards, strict=True)
            ],
            "jobs": [job_fields(job) for job in outlook.jobs if key.is_of(job)],
        }
    )


def _show_whole(
    session: Session,
    key: KeyName,
    versions: "Sequence[KeyVersion]",
    issued: "Sequence[IssuedModel]",
    outlook: "Outlook",
    *,
    grant: "Grant | None",
    models: "Sequence[ModelVersion]",
) -> None:
    from orchestrator.cli.rows import (
        budget_in_words,
        issued_fields,
        job_row,
        key_row,
        policy_facts,
    )

    size = versions[-1].patch_size
    facts = {
        "owner": key.owner,
        "model": key.model,
        "blocks": f"{size} x {size} x {versions[-1].channels}",
        "generator": versions[-1].generator,
        "budget of images": budget_in_words(grant) if grant else "",
        "used of it": f"{grant.images_used:,}" if grant else "",
        **{
            f"commitment of {version.version}": version.commitment.hex()
            for version in versions
            if version.state != "destroyed"
        },
        **policy_facts(session.policies),
    }
    print_facts(key.key_id, facts)
    rows = [key_row(version, outlook) for version in versions]
    shown = [issued_fields(one) for one in issued]
    jobs = [job_row(job) for job in outlook.jobs if key.is_of(job)]
    print_rows("Versions", rows, _VERSIONS, as_json=False)
    print_rows("Issued models", shown, _ISSUED, as_json=False)
    print_rows("Open jobs", jobs, _JOBS, as_json=False)
    _show_cards(session, issued, models)


def _show_cards(
    session: Session,
    issued: "Sequence[IssuedModel]",
    models: "Sequence[ModelVersion]",
) -> None:
    """The leakage cards of what is, or may be, at the server."""
    from orchestrator.leakage.cards import SENTENCE, cards_of, in_words

    held = [one for one in issued if one.state != "gone"]
    cards = cards_of(held, models, session.policies.leakage)
    for one, card in zip(held, cards, strict=True):
        if card is not None:
            title = f"{one.model} version {one.model_version}"
            under = f"under key version {one.key_version}"
            print_facts(f"Leakage card of {title} {under}", in_words(card))
    if any(cards):
        say(SENTENCE)
