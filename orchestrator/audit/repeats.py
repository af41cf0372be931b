"""What a reporter called its records: by that name, one reported again is found."""

from sqlalchemy import insert, select

from orchestrator.audit.records import Entry, parse_entry
from orchestrator.registry.models import AuditEventId, AuditLeaf
from orchestrator.registry.store import Change


def recorded(change: Change, event_id: str) -> Entry | None:
    """The record that the actor gave this name to, as it is stored.

    None if there is none, or if the name is empty: then it is nobody's.
    """
    if not event_id:
        return None
    named = AuditEventId.actor == change.actor, AuditEventId.event_id == event_id
    query = (
        select(AuditLeaf.body)
        .join(AuditEventId, AuditEventId.index == AuditLeaf.index)
        .where(*named)
    )
    body = change.session.scalar(query)
    return None if body is None else parse_entry(body)


def remember(change: Change, event_id: str, index: int) -> None:
    """Note, in the transaction of the record, what the actor called it."""
    if event_id:
        row = {"actor": change.actor, "event_id": event_id, "index": index}
        change.session.execute(insert(AuditEventId), [row])
