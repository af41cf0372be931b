"""Audit records as rows of a table, JSON lines, or CSV that a spreadsheet may open."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from core.console import print_rows
from orchestrator.audit.reading import Record, record_of
from orchestrator.simulation.sentences import sentence, short
from protos.audit_pb2 import AuditEntry

COLUMNS: Final = (
    *("index", "time", "kind", "actor", "owner", "model", "key_id", "key_version"),
    *("request_id", "refusal", "facts"),
)
_TABLE: Final = {"index": "index", "time": "time (UTC)", "kind": "kind"} | {
    "facts": "facts"
}
_DIGEST_DIGITS: Final = 64
# A spreadsheet would run a cell that begins with one of these.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def print_table(entries: Iterable[AuditEntry]) -> None:
    """Print records for a person, with digests cut short."""
    print_rows("Audit log", rows(entries), _TABLE, as_json=False)


def rows(entries: Iterable[AuditEntry]) -> list[Record]:
    """Records with a readable time, and their facts in one line."""
    return [_row(record_of(entry)) for entry in entries]


def print_lines(entries: Iterable[AuditEntry]) -> None:
    """Print records a line each, exactly as they were hashed."""
    for entry in entries:
        sys.stdout.write(entry.body.decode() + "\n")
        sys.stdout.flush()


def print_csv(entries: Iterable[AuditEntry], *, heading: bool = True) -> None:
    """Print records as CSV (RFC 4180) of `COLUMNS`, which stay what they are."""
    writer = csv.writer(sys.stdout)
    if heading:
        writer.writerow(COLUMNS)
    for entry in entries:
        writer.writerow(map(_cell, _fields(record_of(entry))))
        sys.stdout.flush()


def print_told(entries: Iterable[AuditEntry]) -> None:
    """Print records as sentences, a line each."""
    for entry in entries:
        record = record_of(entry)
        what = sentence(record["kind"], record["subject"])
        who = short(record["actor"]) or "nobody"
        line = f"{record['index']:>8}  {_seconds(record['time_ms'])}  {who} {what}"
        sys.stdout.write(plain(line) + "\n")
        sys.stdout.flush()


def iso(at_ms: int) -> str:
    """A moment in UTC, to the millisecond, such as `2026-01-31T12:00:00.000Z`."""
    moment = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def plain(text: str) -> str:
    """Text that a terminal only shows: a party chooses some facts itself."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _row(record: Record) -> Record:
    facts = ", ".join(f"{k} {_brief(v)}" for k, v in record["subject"].items())
    return {**record, "time": _seconds(record["time_ms"]), "facts": plain(facts)}


def _seconds(at_ms: int) -> str:
    return iso(at_ms)[:19].replace("T", " ")


def _brief(fact: object) -> str:
    """A fact for the eye; `audit show` has it whole."""
    text = f"{fact:.1f}" if isinstance(fact, float) else short(fact)
    return f"{text[:12]}..." if len(text) == _DIGEST_DIGITS else text


def _fields(record: Record) -> Iterator[object]:
    """The values of `COLUMNS`; the last holds every fact, as JSON."""
    subject = record["subject"]
    yield from (record["index"], iso(record["time_ms"]), record["kind"])
    yield record["actor"]
    yield from (subject.get(name, "") for name in COLUMNS[4:-1])
    yield json.dumps(subject, sort_keys=True, ensure_ascii=False)


def _cell(value: object) -> str:
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
