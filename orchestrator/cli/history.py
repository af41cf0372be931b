"""The life of one key as the audit log tells it."""

import json
from typing import Any, Final

from orchestrator.cli.session import KeyName
from orchestrator.cli.times import when
from orchestrator.operator import Operator
from orchestrator.simulation.sentences import SENTENCES, sentence, short

Record = dict[str, Any]
# One record an answer, and one a refused question: the traffic, not the key's life.
_TRAFFIC: Final = frozenset({"inference", "inference.refused", "refused"})


def records_of(operator: Operator, key: KeyName) -> list[Record]:
    """Every record about a key and its owner, oldest first, without the traffic.

    The log is asked kind by kind: reading past millions of answers takes minutes.
    """
    found: dict[int, Record] = {}
    for kind in SENTENCES.keys() - _TRAFFIC:
        for entry in operator.entries(kind=kind, party=key.owner):
            record = {"index": entry.index, **json.loads(entry.body)}
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
    """Whether it concerns this key, and not another one of the same owner."""
    if "key_id" in subject:
        return bool(subject["key_id"] == key.key_id)
    return bool(subject.get("model", key.model) == key.model)
