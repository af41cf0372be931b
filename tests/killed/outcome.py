"""What is left when a workflow has ended: rows, files and records, of every party.

Times, numbers, digests and what was drawn by chance are left out: they differ from run
to run. All that is left must be the same, whoever was killed and how often.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text

from core.rpc.identity import INFERENCE_SERVER, KEY_HOLDER, ORCHESTRATOR
from orchestrator.audit.erasure import notes_of
from orchestrator.audit.notes import put_back
from tests.killed import commits
from tests.killed.points import is_of_a_workflow
from tests.killed.site import Site, opened

# Facts that say when, how often or under which number; the others say what.
_NOT_COMPARED: Final = frozenset(
    {
        "job",
        "digest",
        "statement_digest",
        "manifest_digest",
        "embedding_digest",
        "backbone_digest",
        "commitment",
        "receipt_sha256",
        "retire_at_ms",
        "destroy_at_ms",
        "signing_key",
        "sealing_key",
        "address",
    }
)
# An owner that got no answer fetches its key again: that is another fetch.
_REPEATED: Final = "key.fetched"
_FOLDERS: Final = {
    INFERENCE_SERVER: ("issued", "backbones"),
    KEY_HOLDER: (),
    ORCHESTRATOR: (),
}

Record = tuple[str, str, tuple[tuple[str, Any], ...]]


@dataclass(frozen=True)
class Outcome:
    """All that can be compared between two runs of one workflow."""

    # Of every database: what `commits` shows of each row, sorted.
    rows: Mapping[str, list[str]]
    # Of every party: the files it keeps.
    files: Mapping[str, list[str]]
    # Of every key, model and party: its records, in order.
    records: Mapping[str, list[Record]]


def outcome(site: Site) -> Outcome:
    """Look at a federation that is not running."""
    entries = list(_entries(site))
    return Outcome(
        rows={
            ORCHESTRATOR: _rows(site, ORCHESTRATOR, commits.ORCHESTRATOR),
            KEY_HOLDER: _rows(site, KEY_HOLDER, commits.KEY_HOLDER),
        },
        files={role: _files(site, role) for role in _FOLDERS},
        records=_records(entries),
    )


def _records(entries: list[Mapping[str, Any]]) -> Mapping[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for entry in entries:
        if entry["kind"] == _REPEATED or not is_of_a_workflow(entry["kind"]):
            continue
        facts = entry["subject"]
        about = facts.get("key_id") or facts.get("model") or facts.get("party") or ""
        said = {name: facts[name] for name in facts if name not in _NOT_COMPARED}
        found[str(about)].append(
            (entry["kind"], entry["actor"], tuple(sorted(said.items())))
        )
    return dict(found)


def _entries(site: Site) -> Iterator[Mapping[str, Any]]:
    """Every record with what was typed with it, for its salt differs each time."""
    query = text('SELECT "index", body FROM audit_leaves ORDER BY "index"')
    with opened(site, ORCHESTRATOR) as database, database.reading() as session:
        found = session.execute(query).all()
        notes = notes_of(session, (index for index, _ in found))
    for index, body in found:
        entry = json.loads(body)
        facts = put_back(entry["subject"], notes.get(index), index)
        yield {**entry, "subject": facts}


def _rows(site: Site, role: str, queries: Mapping[str, str]) -> list[str]:
    with opened(site, role) as database, database.reading() as session:
        return sorted(
            f"{kind} {shown}"
            for kind, query in queries.items()
            for _, shown in session.execute(text(query))
        )


def _files(site: Site, role: str) -> list[str]:
    folder = site.workspace.server_folder(role)
    return sorted(
        str(path.relative_to(folder))
        for part in _FOLDERS[role]
        for path in (folder / part).rglob("*")
    )
