"""A registry in which many owners have keys, as if each had been drawn and issued.

The rows are inserted, and no record tells of them: to have ten thousand keys drawn and
issued takes half an hour, and a server that starts sees no difference.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import select

from core.orthogonal import GENERATOR
from core.rpc.identity import ORCHESTRATOR, SpiffeId, load_identity
from core.statements import IssueStatement
from orchestrator.registry.lifecycle import IssuedState, KeyState
from orchestrator.registry.models import (
    Grant,
    IssuedModel,
    Key,
    KeyVersion,
    ModelVersion,
    Organisation,
    Party,
)
from orchestrator.registry.store import Change
from orchestrator.server import open_registry
from orchestrator.settings import Settings
from orchestrator.simulation.workspace import Workspace
from orchestrator.workflows.keys import key_id

# Nobody opens the commitment to a key that was never drawn.
_COMMITMENT: Final = bytes(32)


class _Signed(NamedTuple):
    said: IssueStatement
    statement: bytes
    signature: bytes


def settle(workspace: Workspace, issued: Path, owners: Sequence[SpiffeId]) -> None:
    """Give each owner a key that is live, as its file in `issued` says.

    To be called while no server runs.
    """
    folder = workspace.server_folder(ORCHESTRATOR)
    settings, identity = Settings.load(folder), load_identity(folder)
    signed = {each.said.key_id: each for each in map(_signed, issued.glob("*.json"))}
    with (
        open_registry(settings, identity) as registry,
        registry.own_change() as change,
    ):
        release = change.session.scalars(select(ModelVersion)).one()
        known = {party.spiffe_id: party for party in _parties(change)}
        for owner in owners:
            party = known.get(str(owner)) or _enrolled(owner, change.now_ms)
            made = signed[key_id(owner, release.model.name)]
            change.session.add_all(_rows(party, release, made, change.now_ms))


def _parties(change: Change) -> Sequence[Party]:
    return change.session.scalars(select(Party)).all()


def _signed(path: Path) -> _Signed:
    facts = json.loads(path.read_bytes())
    statement = facts["statement"].encode()
    said = IssueStatement.from_bytes(statement)
    return _Signed(said, statement, bytes.fromhex(facts["signature"]))


def _enrolled(owner: SpiffeId, now_ms: int) -> Party:
    return Party(
        spiffe_id=str(owner),
        organisation=Organisation(name=owner.organisation),
        role=owner.role,
        created_at_ms=now_ms,
    )


def _rows(
    owner: Party, release: ModelVersion, made: _Signed, now_ms: int
) -> tuple[Any, ...]:
    """The grant, and what is live; key and version come along."""
    key = Key(
        key_id=made.said.key_id,
        owner=owner,
        model=release.model,
        patch_size=made.said.patch_size,
        channels=made.said.channels,
    )
    version = KeyVersion(
        key=key,
        version=1,
        generator=GENERATOR,
        commitment=_COMMITMENT,
        state=KeyState.ACTIVE,
        is_primary=True,
        confirmed=True,
        created_at_ms=now_ms,
        changed_at_ms=now_ms,
    )
    live = IssuedModel(
        key_version=version,
        model_version=release,
        digest=bytes.fromhex(made.said.digest),
        statement=made.statement,
        signature=made.signature,
        state=IssuedState.LIVE,
        created_at_ms=now_ms,
    )
    return Grant(owner=owner, model=release.model, created_at_ms=now_ms), live
