"""Nothing that people type is in the log, and once erased it is nowhere.

Every call that takes a free text is made with a text of its own, a needle.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import select

from core.database import Database
from core.receipt import Receipt
from core.rpc.identity import OPERATOR, SpiffeId
from core.rpc.policy import acting_as
from orchestrator.audit.notes import DIGEST
from orchestrator.audit.records import parse_entry
from orchestrator.audit.service import AuditService
from orchestrator.audit.tiles import export_tiles
from orchestrator.audit.verify import verify_log
from orchestrator.audit.writer import StoredEntry
from orchestrator.registry import store
from orchestrator.registry.models import AuditNote, Base
from orchestrator.workflows.service import WorkflowService
from protos import audit_pb2, registry_pb2, workflows_pb2
from tests.fakes import fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    LOG_KEY,
    MODEL,
    OPERATOR_ID,
    Office,
    furnish,
    open_office,
    spiffe,
)

SECOND_ID = spiffe("ministry", OPERATOR)
OF_ALDER: dict[str, Any] = {"owner": str(ALDER_ID), "model": MODEL}
OF_BIRCH: dict[str, Any] = {"owner": str(BIRCH_ID), "model": MODEL}
BEGINNING = "needle"
SERVICES = [
    service
    for module in (audit_pb2, registry_pb2, workflows_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
# All kinds of record that are made with something that was typed.
NOTED = {
    *("approval.rejected", "approval.requested", "job.aborted", "key.compromised"),
    *("key.held", "key.revoked", "key.suspended", "model.exposed", "note.erased"),
    "party.revoked",
}


@dataclass
class Story:
    """What the operators of an office do, and what they typed so far."""

    office: Office
    typed: dict[str, list[str]] = field(default_factory=dict)

    def ask(self, method: str, by: SpiffeId = OPERATOR_ID, **asked: Any) -> Any:
        (found,) = [each for each in calls() if each.name == method]
        if takes_text(found):
            needle = f"{BEGINNING}-{method}-{len(self.needles)}."
            self.typed.setdefault(method, []).append(needle)
            asked["reason"] = needle
        request = GetMessageClass(found.input_type)(**asked)
        with acting_as(by):
            return getattr(self._service(found), method)(request, fake_context())

    @property
    def needles(self) -> list[str]:
        return [needle for needles in self.typed.values() for needle in needles]

    def erase(self, index: int) -> None:
        self.ask("EraseNote", index=index)

    def policies(self, *gated: str) -> None:
        changed = {"dual_control": list(gated)}
        self.office.policies = self.office.policies.model_copy(update=changed)

    def _service(self, method: MethodDescriptor) -> object:
        office = self.office
        if method.containing_service.name == "AuditService":
            return AuditService(office.registry)
        return WorkflowService(office.registry, office.policies, office.key_holder)


def calls() -> list[MethodDescriptor]:
    return [method for service in SERVICES for method in service.methods]


def takes_text(method: MethodDescriptor) -> bool:
    return "reason" in method.input_type.fields_by_name


@pytest.fixture
def story(url: str, tmp_path: Path) -> Iterator[Story]:
    """Every way in which something is typed, and at last every kind of record of it."""
    with open_office(tmp_path, url) as office:
        furnish(office)
        with office.registry.own_change() as change:
            store.enrol(change, SECOND_ID)
        story = Story(office)
        hold(story)
        revoke(story)
        expel(story)
        story.erase(noted(office)[0].index)
        yield story


def hold(story: Story) -> None:
    """Suspend a key, give up a job, and hold a key that has no version."""
    office = story.office
    office.active_key()
    story.ask("SuspendKey", **OF_ALDER)
    office.resume()
    office.grant(BIRCH_ID)
    office.create(BIRCH_ID)
    story.ask("AbortJob", id=office.open_job("create").id)
    office.settle()
    story.ask("SuspendKey", **OF_BIRCH)
    office.resume(BIRCH_ID)


def revoke(story: Story) -> None:
    """Two operators are needed: the first time the second one is against it."""
    story.policies("revoke")
    asked = story.ask("RevokeKey", **OF_ALDER).approval_id
    story.ask("Reject", SECOND_ID, id=asked)
    asked = story.ask("RevokeKey", **OF_ALDER).approval_id
    story.ask("Approve", SECOND_ID, id=asked)
    story.policies()
    story.office.settle()


def expel(story: Story) -> None:
    """The new key of one owner leaks, and the other owner leaves."""
    office = story.office
    office.bring_into_use(*office.create())
    story.ask("ReportCompromise", **OF_ALDER)
    story.ask("RevokeParty", spiffe_id=str(BIRCH_ID))


def noted(office: Office) -> list[StoredEntry]:
    found = office.registry.log.entries(0, 10_000)
    return [each for each in found if DIGEST in parse_entry(each.body).subject]


def rows(database: Database) -> str:
    """All rows of all tables, written out."""
    with database.reading() as session:
        return "\n".join(
            str([*row])
            for table in Base.metadata.sorted_tables
            for row in session.execute(select(table))
        )


def files(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())


def receipts(office: Office) -> Iterator[Receipt]:
    log = office.registry.log
    note, size = log.checkpoint(), log.size()
    for entry in log.entries(0, size):
        path = log.inclusion_proof(entry.index, size).path
        yield Receipt(entry.index, tuple(path), note, entry.body)


def test_the_story_has_every_call_that_takes_a_text(story: Story) -> None:
    """So that a new one must be added to it."""
    assert {each.name for each in calls() if takes_text(each)} == set(story.typed)


def test_every_kind_of_record_that_is_made_with_a_text_has_a_digest(
    story: Story,
) -> None:
    log = story.office.registry.log.entries(0, 10_000)
    facts = [parse_entry(each.body).subject for each in log]

    assert {parse_entry(each.body).kind for each in noted(story.office)} == NOTED
    assert [each for each in facts if "reason" in each] == []


def test_no_needle_is_in_a_record_a_tile_or_a_receipt(
    story: Story, tmp_path: Path
) -> None:
    office = story.office
    bodies = b"".join(each.body for each in office.registry.log.entries(0, 10_000))
    extras = b"".join(receipt.extra for receipt in receipts(office))
    export_tiles(office.database, tmp_path / "tiles")

    assert bodies == extras
    assert bodies[:100] in files(tmp_path / "tiles")
    for haystack in (bodies, extras, files(tmp_path / "tiles")):
        assert BEGINNING.encode() not in haystack


def test_every_needle_is_beside_the_log_but_that_which_was_erased(
    story: Story,
) -> None:
    with story.office.database.reading() as session:
        kept = " ".join(session.scalars(select(AuditNote.text)))

    expected = story.typed["SuspendKey"][:1]
    assert expected == [needle for needle in story.needles if needle not in kept]


def test_once_erased_no_needle_is_anywhere(story: Story, tmp_path: Path) -> None:
    """In no row; and with SQLite in no byte of its files, nor in its log."""
    office = story.office
    assert story.typed["RevokeParty"][0] in rows(office.database)
    office.settle()
    for entry in noted(office):
        erase(office, entry.index)

    for needle in story.needles:
        assert needle not in rows(office.database)
        assert needle.encode() not in files(tmp_path)
    assert verify_log(office.database, LOG_KEY.public_key().public_bytes_raw()).erased


def erase(office: Office, index: int) -> None:
    wanted = audit_pb2.EraseNoteRequest(index=index, reason="asked for")
    with acting_as(OPERATOR_ID):
        AuditService(office.registry).EraseNote(wanted, fake_context())
