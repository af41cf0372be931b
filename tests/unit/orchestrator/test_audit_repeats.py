"""What is reported twice under one name is recorded once, and answered the same."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.rpc.identity import SpiffeId
from core.rpc.policy import Refusal, acting_as
from orchestrator.audit.events import RefusalRecorder
from orchestrator.audit.records import parse_entry
from orchestrator.audit.service import AuditService
from orchestrator.registry.lifecycle import KeyAction
from protos import audit_pb2 as pb
from tests.fakes import Aborted, fake_context
from tests.unit.orchestrator.ledger import (
    ALDER_ID,
    BIRCH_ID,
    CLOUD_ID,
    MODEL,
    OPERATOR_ID,
    VAULT_ID,
    Ledger,
    copied_ledger,
    key_id,
    open_ledger,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an active key of one owner."""
    folder = tmp_path_factory.mktemp("template")
    with open_ledger(folder) as ledger:
        ledger.active(ALDER_ID)
    return folder


@pytest.fixture
def ledger(template: Path, tmp_path: Path) -> Iterator[Ledger]:
    with copied_ledger(template, tmp_path) as ledger:
        yield ledger


def ask(
    ledger: Ledger, caller: SpiffeId, method: Callable[..., Any], request: object
) -> Any:
    with acting_as(caller):
        return method(AuditService(ledger.registry), request, fake_context())


def status(ledger: Ledger, caller: SpiffeId, method: Any, request: object) -> Any:
    with pytest.raises(Aborted) as caught:
        ask(ledger, caller, method, request)
    return caught.value.args[0]


def inference(event_id: str = "", **changed: Any) -> pb.InferenceRecord:
    fields: dict[str, Any] = {
        "request_id": "r1",
        "owner": str(ALDER_ID),
        "key_id": key_id(ALDER_ID),
        "key_version": 1,
        "model": MODEL,
        "model_version": 1,
        "images": 2,
        "request_digest": b"q" * 32,
        "result_digest": b"a" * 32,
        "compute_ms": 0.1 + 0.2,
        "latency_ms": 1.1 + 2.2,
        "batch": 2,
        "event_id": event_id,
    }
    return pb.InferenceRecord(**fields | changed)


def verdicts(ledger: Ledger, *records: pb.InferenceRecord) -> list[tuple[int, str]]:
    request = pb.RecordInferencesRequest(records=records)
    answer = ask(ledger, CLOUD_ID, AuditService.RecordInferences, request)
    return [(verdict.index, verdict.refusal) for verdict in answer.verdicts]


def event(event_id: str, kind: str = "issued.stored", **subject: str) -> pb.Event:
    return pb.Event(kind=kind, subject=subject, event_id=event_id)


def indices(ledger: Ledger, caller: SpiffeId, *events: pb.Event) -> list[int]:
    request = pb.RecordEventsRequest(events=events)
    return list(ask(ledger, caller, AuditService.RecordEvents, request).indices)


def test_an_answer_reported_twice_is_one_record_with_one_verdict(
    ledger: Ledger,
) -> None:
    first = verdicts(ledger, inference("one"))
    again = verdicts(ledger, inference("one"))

    assert first == again
    assert len(ledger.entries("inference")) == 1


def test_a_verdict_stays_what_it_was_however_things_stand_now(ledger: Ledger) -> None:
    """Released, then revoked, and the answer was lost: it was released all the same."""
    released = verdicts(ledger, inference("released"))
    refused = verdicts(ledger, inference("refused", key_version=7))
    ledger.move(ALDER_ID, 1, KeyAction.REVOKE)

    assert verdicts(ledger, inference("released")) == released
    assert verdicts(ledger, inference("refused", key_version=7)) == refused
    assert [refusal for _, refusal in released + refused] == ["", "KeyRefused"]
    assert [refusal for _, refusal in verdicts(ledger, inference("new"))] == [
        "KeyRefused"
    ]


def test_a_name_given_twice_in_one_batch_is_one_record(ledger: Ledger) -> None:
    batch = [inference("a"), inference("b"), inference("a"), inference()]
    (a, _), (b, _), (again, _), (nameless, _) = verdicts(ledger, *batch)

    assert again == a
    assert len({a, b, nameless}) == 3
    assert len(ledger.entries("inference")) == 3


def test_what_has_no_name_is_recorded_each_time(ledger: Ledger) -> None:
    verdicts(ledger, inference(), inference())
    indices(ledger, CLOUD_ID, event(""), event(""))

    assert len(ledger.entries("inference")) == 2
    assert len(ledger.entries("issued.stored")) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"result_digest": b"b" * 32},
        {"request_digest": b"b" * 32},
        {"images": 3},
        {"owner": str(BIRCH_ID)},
        {"key_version": 2},
        {"request_id": "r2"},
        {"compute_ms": 0.3},
        {"latency_ms": 3.3},
        {"batch": 3},
    ],
)
def test_a_name_is_not_lent_to_another_answer(
    ledger: Ledger, changed: dict[str, Any]
) -> None:
    """Else a server could release an answer under the record of another one."""
    verdicts(ledger, inference("one"))
    request = pb.RecordInferencesRequest(records=[inference("one", **changed)])
    method = AuditService.RecordInferences

    assert status(ledger, CLOUD_ID, method, request) is (
        grpc.StatusCode.FAILED_PRECONDITION
    )
    assert len(ledger.entries("inference")) == 1


def test_a_name_is_not_lent_to_another_kind_of_event(ledger: Ledger) -> None:
    verdicts(ledger, inference("one"))
    indices(ledger, CLOUD_ID, event("two"))
    events = pb.RecordEventsRequest(events=[event("one")])
    answers = pb.RecordInferencesRequest(records=[inference("two")])

    for method, request in (
        (AuditService.RecordEvents, events),
        (AuditService.RecordInferences, answers),
    ):
        assert status(ledger, CLOUD_ID, method, request) is (
            grpc.StatusCode.FAILED_PRECONDITION
        )


@pytest.mark.parametrize(
    "changed",
    [{"caller": str(BIRCH_ID)}, {"caller": ""}, {"model": "other"}, {"digest": "00"}],
)
def test_a_name_is_not_lent_to_an_event_with_other_facts(
    ledger: Ledger, changed: dict[str, str]
) -> None:
    """What is reported under it would not be in the log, and nobody would know."""
    said = {"caller": str(ALDER_ID), "model": MODEL}

    def told(facts: dict[str, str]) -> pb.Event:
        subject = {name: facts[name] for name in facts if name != "caller"}
        return pb.Event(
            kind="issued.stored",
            caller=facts["caller"],
            subject=subject,
            event_id="one",
        )

    first = indices(ledger, CLOUD_ID, told(said))
    assert indices(ledger, CLOUD_ID, told(said)) == first
    request = pb.RecordEventsRequest(events=[told(said | changed)])
    refused = status(ledger, CLOUD_ID, AuditService.RecordEvents, request)

    assert refused is grpc.StatusCode.FAILED_PRECONDITION
    assert len(ledger.entries("issued.stored")) == 1


def test_each_reporter_has_names_of_its_own(ledger: Ledger) -> None:
    cloud = indices(ledger, CLOUD_ID, event("1/send", kind="refused"))
    vault = indices(ledger, VAULT_ID, event("1/send", kind="refused"))

    assert cloud != vault
    assert len(ledger.entries("refused")) == 2


@pytest.mark.parametrize("name", ["x" * 129, "a\0b", "a\nb"])
def test_a_name_is_short_and_can_be_printed(ledger: Ledger, name: str) -> None:
    """A database would refuse some at the commit, and fail those who share in it."""
    assert indices(ledger, CLOUD_ID, event("x" * 128))
    for method, request in (
        (AuditService.RecordEvents, pb.RecordEventsRequest(events=[event(name)])),
        (
            AuditService.RecordInferences,
            pb.RecordInferencesRequest(records=[inference(name)]),
        ),
    ):
        assert status(ledger, CLOUD_ID, method, request) is (
            grpc.StatusCode.INVALID_ARGUMENT
        )


def test_a_batch_that_fails_has_given_no_names(ledger: Ledger) -> None:
    bad = event("bad", why="x" * 513)
    request = pb.RecordEventsRequest(events=[event("good"), bad])
    status(ledger, CLOUD_ID, AuditService.RecordEvents, request)
    assert ledger.entries("issued.stored") == []

    assert indices(ledger, CLOUD_ID, event("good")) == [ledger.registry.log.size() - 1]


def test_the_same_report_from_many_threads_is_one_record(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: verdicts(ledger, inference("one")), range(24)))

    assert len({index for verdict in found for index, _ in verdict}) == 1
    assert len(ledger.entries("inference")) == 1
    assert ledger.images_used() == 2


names = st.sampled_from(["", "a", "b", "c"])


@settings(max_examples=15)
@given(batches=st.lists(st.lists(names, max_size=6), max_size=6))
def test_however_reports_repeat_each_name_has_one_record(
    tmp_path_factory: pytest.TempPathFactory, template: Path, batches: list[list[str]]
) -> None:
    """The oracle is a dictionary."""
    known: dict[str, int] = {}
    with copied_ledger(template, tmp_path_factory.mktemp("log")) as ledger:
        size = ledger.registry.log.size()
        for batch in batches:
            found = indices(ledger, CLOUD_ID, *(event(name) for name in batch))
            expected = []
            for name in batch:
                index = known.get(name, size) if name else size
                size += index == size
                known[name] = index
                expected.append(index)
            assert found == expected
        assert ledger.registry.log.size() == size


def test_images_are_counted_with_the_answer_that_is_released(ledger: Ledger) -> None:
    verdicts(ledger, inference("a", images=5), inference("b", images=7))
    assert ledger.images_used() == 12
    verdicts(ledger, inference("a", images=5))
    verdicts(ledger, inference("c", images=9, model="another"))
    ledger.move(ALDER_ID, 1, KeyAction.SUSPEND)
    verdicts(ledger, inference("d", images=1))

    assert ledger.images_used() == 12, "neither repeats nor refusals count"


def test_images_are_counted_on_the_version_that_was_used(ledger: Ledger) -> None:
    ledger.move(ALDER_ID, 1, KeyAction.RETIRE)
    ledger.active(ALDER_ID)
    ledger.active(BIRCH_ID)
    verdicts(ledger, inference(images=1), inference(key_version=2, images=10))

    assert ledger.images_used(ALDER_ID, 1) == 1
    assert ledger.images_used(ALDER_ID, 2) == 10
    assert ledger.images_used(BIRCH_ID, 1) == 0


def test_images_of_a_batch_that_fails_are_not_counted(ledger: Ledger) -> None:
    request = pb.RecordInferencesRequest(records=[inference(), inference(images=0)])
    status(ledger, CLOUD_ID, AuditService.RecordInferences, request)

    assert ledger.images_used() == 0


def test_an_operator_reads_what_names_a_party(ledger: Ledger) -> None:
    def read(caller: SpiffeId, party: str) -> list[int]:
        request = pb.ListEntriesRequest(party=party)
        answer = ask(ledger, caller, AuditService.ListEntries, request)
        return [entry.index for entry in answer.entries]

    verdicts(ledger, inference())
    of_alder = [
        entry.index
        for entry in ledger.registry.log.entries(0, 1000)
        if str(ALDER_ID)
        in (
            parse_entry(entry.body).actor,
            *parse_entry(entry.body).subject.values(),
        )
    ]

    assert read(OPERATOR_ID, str(ALDER_ID)) == of_alder == read(ALDER_ID, "")
    assert read(ALDER_ID, str(ALDER_ID)) == of_alder
    assert len(read(OPERATOR_ID, "")) == ledger.registry.log.size()


def test_nobody_else_reads_what_names_another_party(ledger: Ledger) -> None:
    request = pb.ListEntriesRequest(party=str(BIRCH_ID))
    for caller in (ALDER_ID, CLOUD_ID, VAULT_ID):
        assert status(ledger, caller, AuditService.ListEntries, request) is (
            grpc.StatusCode.PERMISSION_DENIED
        )


def test_a_party_that_has_no_spiffe_id_is_nobodys_filter(ledger: Ledger) -> None:
    request = pb.ListEntriesRequest(party="alder")

    assert status(ledger, OPERATOR_ID, AuditService.ListEntries, request) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


def test_the_key_holder_reports_that_it_rewrapped(ledger: Ledger) -> None:
    assert indices(ledger, VAULT_ID, event("r", kind="keys.rewrapped", count="3"))
    request = pb.RecordEventsRequest(events=[event("r", kind="keys.rewrapped")])
    assert status(ledger, CLOUD_ID, AuditService.RecordEvents, request) is (
        grpc.StatusCode.PERMISSION_DENIED
    )


def test_refusals_that_found_no_room_are_counted_too(ledger: Ledger) -> None:
    record = RefusalRecorder(ledger.registry)
    record(Refusal(str(ALDER_ID), "/x.Y/Z", "NotAllowed", missed=41))
    record(Refusal(str(ALDER_ID), "/x.Y/Z", "NotAllowed"))

    counted = [entry.subject for entry in ledger.entries("refusals.missed")]
    assert counted == [{"count": 41}]


# What an owner may send again: the same question, answered by another computation.
ASKED = {"names_question": True}
COMPUTED_AGAIN = {"result_digest": b"b" * 32, "compute_ms": 9.0, "latency_ms": 12.0}


def test_a_question_that_is_answered_again_is_recorded_again_and_counted_once(
    ledger: Ledger,
) -> None:
    """The second answer has a record of its own: it may differ in the last bit."""
    ((first, _),) = verdicts(ledger, inference("q", **ASKED))
    ((again, refusal),) = verdicts(ledger, inference("q", **ASKED, **COMPUTED_AGAIN))

    assert (refusal, ledger.images_used()) == ("", 2)
    assert [entry.index for entry in ledger.entries("inference")] == [first, again]
    assert [None, first] == [
        entry.subject.get("repeats") for entry in ledger.entries("inference")
    ]


def test_each_answer_to_a_question_has_one_record(ledger: Ledger) -> None:
    """A verdict that was lost is given again, be it the first answer's or the next."""
    answers = [inference("q", **ASKED), inference("q", **ASKED, **COMPUTED_AGAIN)]
    first = verdicts(ledger, *answers, *answers)

    assert first[:2] == first[2:] == verdicts(ledger, *answers)
    assert len(ledger.entries("inference")) == 2
    assert ledger.images_used() == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"request_digest": b"b" * 32},
        {"images": 3},
        {"owner": str(BIRCH_ID)},
        {"key_version": 2},
        {"request_id": "r2"},
    ],
)
def test_another_question_under_the_same_name_is_refused(
    ledger: Ledger, changed: dict[str, Any]
) -> None:
    """Else one budgeted image would open the model for all others."""
    verdicts(ledger, inference("q", **ASKED))
    ((_, refusal),) = verdicts(ledger, inference("q", **ASKED, **changed))

    assert refusal == "QuestionReused"
    assert len(ledger.entries("inference")) == 1
    assert len(ledger.entries("inference.refused")) == 1


def test_a_question_is_not_answered_again_under_a_key_that_was_revoked_since(
    ledger: Ledger,
) -> None:
    verdicts(ledger, inference("q", **ASKED))
    ledger.move(ALDER_ID, 1, KeyAction.REVOKE)
    ((_, refusal),) = verdicts(ledger, inference("q", **ASKED, **COMPUTED_AGAIN))

    assert refusal == "KeyRefused"


def test_a_question_that_was_refused_stays_refused(ledger: Ledger) -> None:
    ledger.move(ALDER_ID, 1, KeyAction.SUSPEND)
    refused = verdicts(ledger, inference("q", **ASKED))
    ledger.move(ALDER_ID, 1, KeyAction.RESUME)

    assert verdicts(ledger, inference("q", **ASKED, **COMPUTED_AGAIN)) == refused
    assert ledger.images_used() == 0
