"""What is typed with a record lies beside it, and is missed if it is gone unsaid.

Whoever owns the database deletes a note and inserts another one: no trigger stops that.
"""

import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import delete, insert, select

from core.errors import DatabaseBusyError
from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from orchestrator.audit.erasure import ERASURE
from orchestrator.audit.notes import DIGEST, ERASED
from orchestrator.audit.reading import record_of
from orchestrator.audit.records import parse_entry
from orchestrator.audit.service import AuditService
from orchestrator.audit.tile_check import verify_tiles
from orchestrator.audit.tiles import export_tiles
from orchestrator.audit.verify import verify_log
from orchestrator.errors import AuditBroken
from orchestrator.registry import store
from orchestrator.registry.models import Approval, AuditNote, Job, Key
from orchestrator.workflows import asked, undoing
from orchestrator.workflows.approvals import Action, request
from protos import audit_pb2 as pb
from tests.fakes import Aborted, fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    LOG_KEY,
    MODEL,
    OPERATOR_ID,
    Office,
    furnish,
    open_office,
)

WHY = "the nurse lost her laptop"
BECAUSE = "she asked for it"
PUBLIC_KEY = LOG_KEY.public_key().public_bytes_raw()


@pytest.fixture
def office(url: str, tmp_path: Path) -> Iterator[Office]:
    with open_office(tmp_path, url) as office:
        furnish(office)
        office.active_key()
        office.active_key(BIRCH_ID)
        yield office


@pytest.fixture
def index(office: Office) -> int:
    """The record of a suspension, and what was typed with it."""
    office.suspend(reason=WHY)
    return office.entries("key.suspended")[-1].index


def ask(office: Office, method: str, request: Any, by: SpiffeId = OPERATOR_ID) -> Any:
    with acting_as(by):
        return getattr(AuditService(office.registry), method)(request, fake_context())


def erase(office: Office, index: int, reason: str = BECAUSE) -> list[int]:
    wanted = pb.EraseNoteRequest(index=index, reason=reason)
    return list(ask(office, "EraseNote", wanted).same_text)


def refusal(office: Office, index: int, reason: str = BECAUSE) -> tuple[object, str]:
    with pytest.raises(Aborted) as caught:
        erase(office, index, reason)
    status, details = caught.value.args
    return status, str(details).partition(":")[0]


def read(office: Office, index: int, by: SpiffeId = OPERATOR_ID) -> dict[str, Any]:
    """A record's facts as the caller is shown them."""
    wanted = pb.ListEntriesRequest(start=index, limit=1)
    (entry,) = ask(office, "ListEntries", wanted, by).entries
    facts: dict[str, Any] = record_of(entry)["subject"]
    return facts


def replace(office: Office, index: int, **changed: object) -> None:
    """Put another note in the place of one, with the rights of the orchestrator."""
    with office.database.transaction() as session:
        note = session.scalars(select(AuditNote).where(AuditNote.index == index)).one()
        row = {"index": note.index, "salt": note.salt, "text": note.text}
        session.execute(delete(AuditNote).where(AuditNote.index == index))
        session.execute(insert(AuditNote), [row | changed])


def found(office: Office) -> str:
    with pytest.raises(AuditBroken) as caught:
        verify_log(office.database, PUBLIC_KEY)
    return str(caught.value)


def test_a_record_has_a_keyed_digest_in_the_place_of_what_was_typed(
    office: Office, index: int
) -> None:
    (stored,) = office.registry.log.entries(index, 1)
    subject = parse_entry(stored.body).subject
    with office.database.reading() as session:
        note = session.scalars(select(AuditNote).where(AuditNote.index == index)).one()

    assert hmac.digest(note.salt, WHY.encode(), "sha256").hex() == subject[DIGEST]
    assert "reason" not in subject
    assert WHY.encode() not in stored.body


def test_the_same_text_has_another_digest_each_time(office: Office, index: int) -> None:
    office.resume()
    office.suspend(reason=WHY)
    records = office.registry.log.entries(index, 100, kind="key.suspended")

    assert len({parse_entry(each.body).subject[DIGEST] for each in records}) == 2


@pytest.mark.parametrize("reader", [OPERATOR_ID, ALDER_ID], ids=str)
def test_who_may_read_a_record_reads_its_note_until_it_is_erased(
    office: Office, index: int, reader: SpiffeId
) -> None:
    assert WHY == read(office, index, reader)["reason"]

    erase(office, index)

    assert ERASED == read(office, index, reader)["reason"]


def test_who_may_not_read_a_record_does_not_read_its_note(
    office: Office, index: int
) -> None:
    wanted = pb.ListEntriesRequest(start=index)

    assert WHY not in str(ask(office, "ListEntries", wanted, BIRCH_ID))


def test_an_erasure_leaves_a_log_that_verifies_and_says_so(
    office: Office, index: int, tmp_path: Path
) -> None:
    before = verify_log(office.database, PUBLIC_KEY)
    office.registry.log.checkpoint()
    erase(office, index)
    after = verify_log(office.database, PUBLIC_KEY)
    office.registry.log.checkpoint()
    export_tiles(office.database, tmp_path / "tiles")

    assert (0, 1) == (before.erased, after.erased)
    assert after.size == before.size + 1
    assert verify_tiles(tmp_path / "tiles", PUBLIC_KEY).size == after.size


def test_an_erasure_is_on_record_without_the_old_text(
    office: Office, index: int
) -> None:
    erase(office, index)
    (entry,) = office.entries(ERASURE)

    assert str(OPERATOR_ID) == entry.actor
    assert {"record": index, "reason": BECAUSE} == entry.subject
    # Whoever could read the reason is told that it was taken away.
    assert BECAUSE == read(office, entry.index, ALDER_ID)["reason"]


def test_the_reason_for_an_erasure_can_be_erased_too(
    office: Office, index: int
) -> None:
    erase(office, index, f"it said: {WHY}")
    (entry,) = office.entries(ERASURE)
    erase(office, entry.index)

    assert ERASED == read(office, entry.index)["reason"]
    assert verify_log(office.database, PUBLIC_KEY).erased == 2


def test_what_is_erased_already_is_not_erased_twice(office: Office, index: int) -> None:
    """An answer may be lost on its way, and the question asked again."""
    erase(office, index)

    assert [] == erase(office, index)
    assert len(office.entries(ERASURE)) == 1


@pytest.mark.parametrize("index", [0, 9999])
def test_a_record_that_never_had_a_note_has_none_to_erase(
    office: Office, index: int
) -> None:
    answer = (grpc.StatusCode.NOT_FOUND, "NothingToErase")

    assert answer == refusal(office, index)
    assert office.entries(ERASURE) == []


@pytest.mark.parametrize("reason", ["", " \n", "x" * 501, "a\0b"])
def test_an_erasure_has_a_reason_that_can_be_kept(
    office: Office, index: int, reason: str
) -> None:
    answer = (grpc.StatusCode.INVALID_ARGUMENT, "InvalidInput")

    assert answer == refusal(office, index, reason)
    assert WHY == read(office, index)["reason"]


def test_the_same_text_with_other_records_is_named_and_then_erased_too(
    office: Office, index: int
) -> None:
    """The registry shows the text as long as any record does."""
    office.suspend(BIRCH_ID, WHY)
    other = office.entries("key.suspended")[-1].index

    assert [other] == erase(office, index)
    assert held_for(office) == {WHY}
    assert [] == erase(office, other)
    assert held_for(office) == {ERASED}


def held_for(office: Office) -> set[str | None]:
    with office.database.reading() as session:
        return {key.held_for for key in session.scalars(select(Key))}


def test_the_reason_of_a_job_that_was_given_up_is_erased_from_the_job(
    office: Office,
) -> None:
    office.rotate()
    with office.change() as change:
        job = office.open_job("rotate").id
        undoing.give_up(change, office.policies, job, WHY)
    for kind in ("job.aborted", "key.revoked"):
        erase(office, office.entries(kind)[-1].index)

    with office.database.reading() as session:
        assert ERASED == session.get_one(Job, job).why


def test_a_request_that_waits_keeps_its_reason_until_it_is_decided(
    office: Office,
) -> None:
    """It is what the second operator decides on."""
    arguments = {"owner": str(ALDER_ID), "model": MODEL, "reason": WHY}
    with office.change() as change:
        waiting = request(change, Action.REVOKE_KEY, arguments).id
    (made,) = office.entries("approval.requested")

    assert (grpc.StatusCode.FAILED_PRECONDITION, "Conflict") == refusal(
        office, made.index
    )
    with office.change() as change:
        approval = change.session.get_one(Approval, waiting)
        asked.reject(change, approval, "no")
    erase(office, made.index)
    with office.database.reading() as session:
        arguments_now = session.get_one(Approval, waiting).arguments
    assert WHY.encode() not in arguments_now
    assert ERASED.encode() in arguments_now


def test_a_changed_note_is_found_and_shown_to_nobody(
    office: Office, index: int
) -> None:
    replace(office, index, text="no reason at all")
    said = f"note {index}: it is not the one that its record tells of"

    assert said == found(office)
    with pytest.raises(AuditBroken, match=said):
        read(office, index)


def test_a_note_with_another_salt_is_found(office: Office, index: int) -> None:
    replace(office, index, salt=bytes(32))

    assert f"note {index}: it is not the one that its record tells of" == found(office)


def test_a_note_that_went_without_a_record_is_found(office: Office, index: int) -> None:
    with office.database.transaction() as session:
        session.execute(delete(AuditNote).where(AuditNote.index == index))

    assert f"note {index}: it is gone, and nobody erased it" == found(office)


def test_a_note_that_comes_back_is_found(office: Office, index: int) -> None:
    with office.database.reading() as session:
        note = session.get_one(AuditNote, index)
        row = {"index": index, "salt": note.salt, "text": note.text}
    erase(office, index)
    with office.database.transaction() as session:
        session.execute(insert(AuditNote), row)

    assert f"note {index}: it was erased, and is there" == found(office)


def test_a_note_of_a_record_that_has_none_is_found(office: Office) -> None:
    row = {"index": 0, "salt": bytes(32), "text": "made up"}
    with office.database.transaction() as session:
        session.execute(insert(AuditNote), row)

    assert "note 0: no record tells of it" == found(office)


def test_a_record_that_erases_what_was_not_kept_is_found(office: Office) -> None:
    with office.change() as change:
        index = change.record(ERASURE, {"record": 0, "reason": WHY})

    assert f"record {index}: it erases what was not kept" == found(office)


def test_a_note_is_kept_with_its_record_or_neither_is(office: Office) -> None:
    size = office.registry.log.size()

    def fails() -> None:
        with office.change() as change:
            store.revoke_party(change, str(ALDER_ID), WHY)
            raise DatabaseBusyError("on purpose")

    with pytest.raises(DatabaseBusyError):
        fails()
    with office.database.reading() as session:
        assert session.scalars(select(AuditNote)).all() == []
    assert office.registry.log.size() == size
