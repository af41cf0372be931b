"""Budgets and revocations are exact on every database, however many ask at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from sqlalchemy import text

from core.errors import ConstraintConflict, DatabaseBusyError
from core.rpc.policy import acting_as
from orchestrator.audit import decisions
from orchestrator.audit.records import Entry
from orchestrator.audit.service import AuditService
from orchestrator.registry import budgets
from orchestrator.registry.budgets import Budget
from orchestrator.registry.lifecycle import Period
from protos import audit_pb2 as pb
from tests.fakes import Aborted, fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    MODEL,
    OPERATOR_ID,
    SERVER_ID,
    Office,
    furnish,
    open_office,
)

T = TypeVar("T")

ALDER = str(ALDER_ID)
THREADS = 32
DAY_S = 24 * 3600.0


@pytest.fixture
def office(url: str, tmp_path: Path) -> Iterator[Office]:
    with open_office(tmp_path, url) as office:
        furnish(office)
        office.active_key()
        yield office


def inference(**changed: Any) -> pb.InferenceRecord:
    fields: dict[str, Any] = {
        "request_id": "r1",
        "owner": ALDER,
        "key_id": "alder.cells",
        "key_version": 1,
        "model": MODEL,
        "model_version": 1,
        "images": 1,
        "request_digest": b"q" * 32,
        "result_digest": b"a" * 32,
    }
    return pb.InferenceRecord(**fields | changed)


def verdicts(office: Office, *records: pb.InferenceRecord) -> list[str]:
    request = pb.RecordInferencesRequest(records=records)
    with acting_as(SERVER_ID):
        answer = AuditService(office.registry).RecordInferences(request, fake_context())
    return [verdict.refusal for verdict in answer.verdicts]


def set_budget(
    office: Office, images: int | None, period: Period = Period.TOTAL
) -> None:
    with office.change() as change:
        wanted = Budget(images, period)
        budgets.replace_budget(change, ALDER, MODEL, wanted, None)


def used(office: Office) -> int:
    with office.database.reading() as session:
        (grant,) = budgets.grants_for(session, OPERATOR_ID)
        return budgets.used_now(grant, office.clock())


def together(work: Callable[[int], T], count: int) -> list[T]:
    """Many threads begin at one moment, each with the work of its numbers."""
    begin = threading.Barrier(THREADS)

    def share(first: int) -> list[T]:
        begin.wait(60)
        return [work(number) for number in range(first, count, THREADS)]

    with ThreadPoolExecutor(THREADS) as pool:
        return [done for part in pool.map(share, range(THREADS)) for done in part]


def replay(entries: list[Entry], most: int) -> int:
    """The slow obvious way: every verdict in the log's order; returns what is used."""
    spent = 0
    for entry in entries:
        images = entry.subject.get("images")
        if entry.kind == "inference":
            assert isinstance(images, int)
            spent += images
            assert spent <= most, "released beyond the budget"
        if entry.kind == "inference.refused":
            assert isinstance(images, int)
            assert entry.subject["refusal"] == "BudgetSpent"
            assert spent + images > most, "refused although it fitted"
    return spent


def test_of_many_that_ask_at_once_the_budget_is_answered_and_no_more(
    office: Office,
) -> None:
    set_budget(office, 150)

    said = together(lambda n: verdicts(office, inference(request_id=f"r{n}")), 320)

    assert said.count([""]) == 150
    assert said.count(["BudgetSpent"]) == 170
    assert replay(office.entries(), 150) == 150 == used(office)


def test_requests_of_many_sizes_are_released_whole_or_not_at_all(
    office: Office,
) -> None:
    """In the log's order each is what one at a time would have been."""
    set_budget(office, 333)

    together(lambda n: verdicts(office, inference(images=1 + n % 7)), 192)

    spent = replay(office.entries(), 333)
    assert spent == used(office) == key_images(office)
    assert spent > 333 - 7
    assert len(office.entries("inference.refused")) > 0


def test_a_group_that_is_done_again_one_by_one_counts_nothing_twice(
    office: Office,
) -> None:
    """Each third borrows a name that is taken: its whole group begins anew."""
    set_budget(office, 100)
    verdicts(office, inference(event_id="taken", images=3))

    def work(number: int) -> str:
        if number % 3:
            return verdicts(office, inference(event_id=f"e{number}"))[0]
        with pytest.raises(Aborted):
            verdicts(office, inference(), inference(event_id="taken", images=2))
        return "aborted"

    said = together(work, 192)

    assert said.count("aborted") == 64
    assert said.count("") == 97
    assert replay(office.entries(), 100) == 100 == used(office)


def test_a_batch_is_refused_one_by_one(office: Office) -> None:
    set_budget(office, 10)
    batch = [inference(images=images) for images in (6, 5, 4, 1)]

    assert verdicts(office, *batch) == ["", "BudgetSpent", "", "BudgetSpent"]
    assert used(office) == 10


def test_two_versions_of_a_key_draw_on_one_budget_in_one_batch(office: Office) -> None:
    """While a rotation overlaps, both are answered."""
    (made,) = office.rotate()
    office.bring_into_use(made.key_id, made.to_version)
    set_budget(office, 10)
    batch = [inference(key_version=n, images=4) for n in (1, 2, 1, 2)]

    assert verdicts(office, *batch) == ["", "", "BudgetSpent", "BudgetSpent"]
    assert used(office) == 8


def test_what_may_work_later_is_no_refusal_on_record(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a busy moment would be held against the owner for good."""

    def busy(*_: object) -> NoReturn:
        raise DatabaseBusyError("for now")

    monkeypatch.setattr(decisions, "require_admitted", busy)
    with pytest.raises(Aborted):
        verdicts(office, inference())

    assert office.entries("inference.refused") == []


def test_what_is_reported_again_is_counted_once(office: Office) -> None:
    set_budget(office, 5)
    released, refused = inference(event_id="a", images=4), inference(images=2)
    refused.event_id = "b"
    first = verdicts(office, released, refused)
    set_budget(office, 50)

    assert first == verdicts(office, released, refused) == ["", "BudgetSpent"]
    assert used(office) == 4


@pytest.mark.parametrize(
    ("period", "seconds"), [(Period.DAY, DAY_S), (Period.MONTH, 31 * DAY_S)]
)
def test_with_a_new_period_counting_begins_anew(
    office: Office, period: Period, seconds: float
) -> None:
    set_budget(office, 3, period)
    before = verdicts(office, inference(images=3), inference())
    office.clock.pass_seconds(seconds)

    assert used(office) == 0
    assert before == verdicts(office, inference(images=3), inference())
    assert before == ["", "BudgetSpent"]


def test_a_clock_that_is_set_back_gives_nothing_twice(office: Office) -> None:
    set_budget(office, 3, Period.DAY)
    office.clock.pass_seconds(DAY_S)
    assert verdicts(office, inference(images=3)) == [""]
    office.clock.pass_seconds(-DAY_S)

    assert verdicts(office, inference()) == ["BudgetSpent"]


def test_the_database_itself_refuses_an_overdraw(office: Office) -> None:
    """Whatever the code above it does."""
    set_budget(office, 3)
    verdicts(office, inference(images=3))

    with pytest.raises(ConstraintConflict), office.database.transaction() as session:
        session.execute(text("UPDATE grants SET images_used = images_used + 1"))
    assert used(office) == 3


def test_after_the_record_of_a_revocation_none_is_released(office: Office) -> None:
    """Others ask all the while: before it all are released, after it none."""
    released = threading.Semaphore(0)

    def work(number: int) -> int:
        if number == 0:
            for _ in range(2 * THREADS):
                assert released.acquire(timeout=60)
            office.revoke()
        answered = 0
        while verdicts(office, inference(request_id=f"r{number}")) == [""]:
            answered += 1
            released.release()
        return answered

    answered = sum(together(work, THREADS))

    (revoked,) = office.entries("key.revoked")
    before = [entry.index for entry in office.entries("inference")]
    after = office.entries("inference.refused")
    assert max(before) < revoked.index < min(entry.index for entry in after)
    assert {entry.subject["refusal"] for entry in after} == {"KeyRefused"}
    assert answered == len(before) == used(office)
    assert len(after) == THREADS


def key_images(office: Office) -> int:
    with office.database.reading() as session:
        return int(
            session.execute(text("SELECT images_used FROM key_versions")).one()[0]
        )
