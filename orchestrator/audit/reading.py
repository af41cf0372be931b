"""A record as whoever asked for it reads it: its facts, and what was typed with it."""

import json
from typing import Any

from orchestrator.audit.notes import Note, put_back
from protos import audit_pb2 as pb

Record = dict[str, Any]


def record_of(entry: pb.AuditEntry) -> Record:
    """Read a record, and put its note back.

    Raises:
        AuditBroken: the note is not the one that was kept with the record.
    """
    record: Record = json.loads(entry.body)
    note = Note(entry.note.salt, entry.note.text) if entry.HasField("note") else None
    return {**record, "subject": put_back(record["subject"], note, entry.index)}
