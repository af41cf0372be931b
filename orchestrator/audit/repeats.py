"""What a reporter called its records: by that name, one reported again is found."""

from typing import Final

from sqlalchemy import bindparam, select

from core.errors import InvalidInput
from orchestrator.audit.pending import pending
from orchestrator.audit.records import Entry, parse_entry
from orchestrator.registry.models import AuditEventId, AuditLeaf
from orchestrator.registry.store import Change

_NAMED: Final = (
    select(AuditLeaf.body)
    .join(AuditEventId, AuditEventId.index == AuditLeaf.index)
    .where(
        AuditEventId.actor == bindparam("actor"),
        AuditEventId.event_id == bindparam("event_id"),
    )
)


def recorded(change: Change, event_id: str) -> Entry | None:
    """The record that the actor gave this name to, as it is stored.

    None if there is none, or if the name is empty: then it is nobody's.
    """
    if not event_id:
        return None
    mine = pending(change.session)
    body = mine and mine.named(change.actor, event_id)
    if not body:
        names = {"actor": change.actor, "event_id": event_id}
        body = change.session.connection().scalar(_NAMED, names)
    return parse_entry(body) if body else None


def remember(change: Change, event_id: str, index: int) -> None:
    """Note, in the transaction of the record, what the actor called it."""
    if not event_id:
        return
    if (mine := pending(change.session)) is None:
        raise InvalidInput("only a record of this transaction can be named")
    mine.name(change.actor, event_id, index)
