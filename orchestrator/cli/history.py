"""The life of one key as the audit log tells it."""

import json
from typing import Any, Final

from orchestrator.audit.reading import record_of
from orchestrator.cli.session import KeyName
from orchestrator.cli.times import when
from orchestrator.operator import Operator
from orchestrator.simulation.sentences import SENTENCES, sentence, short

Record = dict[str, Any]
_KINDS: Final = ("key.", "issued.", "job.", "approval.", "model.", "party.")
# These name no owner: there are few of them, and all are read.
_OF_NOBODY: Final = (
    *("approval.", "key.sealed_for"),
    *("model.exposed", "model.held_back", "model.not_issued"),
    *("model.public", "model.rec"),
)


def records_of(operator: Operator, key: KeyName) -> list[Record]:
    """Every record about a key and its owner, oldest first, without the traffic.

    The log is asked kind by kind: reading past millions of answers takes minutes.
    """
    found: dict[int, Record] = {}
    for kind in (each for each in SENTENCES if each.startswith(_KINDS)):
        party = "" if kind.startswith(_OF_NOBODY) else key.owner
        for entry in operator.entries(kind=kind, party=party):
            record = {"index": entry.index, **record_of(entry)}
            if _about(record["subject"], key):
                found[entry.index] = record
    return [found[index] for index in sorted(found)]


def told(record: Record) -> dict[str, Any]:
    """A record for the eye: when, who, what and why."""
    subject = record["subject"]
    what = sentence(record["kind"], subject)
    reason = str(subject.get("reason", ""))
    return {
        "index": record["index"],
        "time": when(record["time_ms"]),
        "who": short(record["actor"]),
        "what": what if reason in what else f"{what}: {reason}",
    }


def _about(subject: dict[str, Any], key: KeyName) -> bool:
    """Whether it concerns this key, and not another one or another owner."""
    # A request for two operators says what it is about in its arguments.
    asked = {**subject, **json.loads(subject.get("arguments", "{}"))}
    of_job = str(asked.get("job_subject", f"key:{key.key_id}"))
    return (
        asked.get("key_id", key.key_id) == key.key_id
        and asked.get("model", key.model) == key.model
        and (asked.get("owner") or key.owner) == key.owner
        and asked.get("spiffe_id", key.owner) == key.owner
        and key.key_id in of_job.partition(":")[2].split("/")
    )
