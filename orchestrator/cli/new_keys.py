"""`keymixer keys create | rotate`: new key versions, followed until they are live."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from core.console import EXIT_CODES, print_json, print_rows
from core.errors import Conflict, NotFound
from orchestrator.cli.options import (
    LATEST,
    As,
    AsJson,
    Each,
    MaxImages,
    Model,
    NoWait,
    Owner,
    Patience,
    Per,
    Run,
    duration,
)
from orchestrator.cli.session import KeyName, Session, connected, tell, tell_outcome

if TYPE_CHECKING:
    from protos.workflows_pb2 import RotateKeysResponse

app = typer.Typer()

OneOwner = Annotated[
    str, typer.Argument(help="A data owner's organisation, or its key's id.")
]
Everybody = Annotated[bool, typer.Option("--all", help="Every owner's key.")]
OlderThan = Annotated[
    float | None,
    typer.Option(parser=duration, metavar="DURATION", help="Every key as old as this."),
]
Overlap = Annotated[
    float | None,
    typer.Option(
        parser=duration,
        metavar="DURATION",
        help="How long the old version is served after the new one is live; "
        "default: the federation's policy.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]

_DRY: Final = {
    "key_id": "key",
    "from_version": "version",
    "age": "age",
    "images_used": "images",
    "what": "would be rotated",
}


@app.command(epilog=EXIT_CODES)
def create(
    owner: Owner,
    run: Run = LATEST,
    *,
    max_images: MaxImages = None,
    per: Per = Each.TOTAL,
    model: Model = "",
    no_wait: NoWait = False,
    patience: Patience = 10.0,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Have a key drawn for an owner that has none, or whose key was revoked.

    The owner may use the model from then on; --max-images is for one that could not
    before. Any other's budget stays: see `keymixer budgets`.

    A new key does not undo a leak: see docs/keys.md, "When a key leaks".

    Example: keymixer keys create st-anna
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        session.operator.grant(key.owner, key.model, max_images=max_images, period=per)
        made = session.operator.create_key(key.owner, key.model)
        content: dict[str, Any] = {
            "key_id": made.key_id or key.key_id,
            "version": made.version,
            "job_id": made.job_id,
            "approval_id": made.approval_id,
        }
        ids = [] if made.approval_id or no_wait else [made.job_id]
        told = f"{made.key_id} version {made.version}"
        _follow(session, ids, patience, content, told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def rotate(
    owner: OneOwner = "",
    run: Run = LATEST,
    *,
    all_: Everybody = False,
    older_than: OlderThan = None,
    overlap: Overlap = None,
    dry_run: DryRun = False,
    model: Model = "",
    no_wait: NoWait = False,
    patience: Patience = 10.0,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Have new versions of keys drawn; the old ones stay for the overlap.

    Name one OWNER, or --all, or --older-than. An owner's client fetches its new version
    by itself the next time it asks; until it did, its old version is served.

    Example: keymixer keys rotate --older-than 30d --overlap 10m
    """
    if sum((bool(owner), all_, older_than is not None)) != 1:
        raise typer.BadParameter("name one OWNER, or --all, or --older-than")
    with connected(run, as_) as session:
        key = session.key(owner, model) if owner else None
        answer = session.operator.rotate_keys(
            key.model if key else session.model(model),
            session.policies.rotation_overlap_s if overlap is None else overlap,
            owner=key.owner if key else "",
            older_than_s=older_than or 0.0,
            dry_run=dry_run,
        )
        if dry_run:
            _tell_plan(answer, as_json=json_)
            return
        _require_one(key, answer)
        _follow_rotations(session, answer, no_wait, patience, as_json=json_)


def _follow_rotations(
    session: Session,
    answer: "RotateKeysResponse",
    no_wait: bool,
    patience: float,
    *,
    as_json: bool,
) -> None:
    from orchestrator.cli.rows import rotation_fields

    content = {
        "rotations": [rotation_fields(each) for each in answer.rotations],
        "approval_id": answer.approval_id,
    }
    begun = [each.job_id for each in answer.rotations if each.job_id]
    left_out = len(answer.rotations) - len(begun)
    told = f"{len(begun)} of {len(begun) + left_out} keys"
    ids = [] if no_wait else begun
    _follow(session, ids, patience, content, told, as_json=as_json)


def _follow(
    session: Session,
    ids: list[int],
    patience: float,
    content: dict[str, Any],
    told: str,
    *,
    as_json: bool,
) -> None:
    """Say what was begun, once it is live as far as anybody can see to it."""
    from orchestrator.cli import waiting

    if content["approval_id"] or not ids:
        begun = f"{told}: on the way, see `keymixer keys list`"
        tell_outcome(session, content, begun, as_json=as_json)
        return
    standing = waiting.until_live(session, ids, patience)
    content["progress"] = waiting.fields(standing)
    tell(content, f"{told}: {waiting.in_words(standing)}", as_json=as_json)
    waiting.require_none_stuck(standing)


def _tell_plan(answer: "RotateKeysResponse", *, as_json: bool) -> None:
    from orchestrator.cli.rows import rotation_fields, rotation_row

    if as_json:
        rotations = [rotation_fields(each) for each in answer.rotations]
        print_json({"rotations": rotations, "approval_id": 0})
        return
    rows = [rotation_row(each) for each in answer.rotations]
    print_rows("A dry run: nothing was changed", rows, _DRY, as_json=False)


def _require_one(key: KeyName | None, answer: "RotateKeysResponse") -> None:
    """Raise if the one key that was named cannot be rotated.

    Raises:
        Conflict: it is left out; the message says why.
        NotFound: the owner has no key.
    """
    if key is None or answer.approval_id:
        return
    if not answer.rotations:
        raise NotFound(f"{key.organisation} has no key for {key.model} yet")
    if why := answer.rotations[0].left_out:
        raise Conflict(f"{key.key_id} is not rotated: {why}")
