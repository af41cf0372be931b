"""Asking the inference server: right answers, no audit no answer, nothing malformed."""

import gc
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Semaphore
from typing import Any

import numpy as np
import pytest
import torch

from core.blocks import encrypt
from core.convmixer import take_apart
from core.encoding import encode, uint8_step
from core.errors import (
    AuditUnavailable,
    DtypeError,
    InvalidInput,
    KeymixerError,
    KeyRefusedError,
    NonFiniteError,
    NotFound,
    ShapeError,
    TooLargeError,
    TruncatedError,
)
from core.keys import BlockKey, derive_key
from core.preprocessing import Preprocessing
from core.rpc.errors import RemoteError
from core.rpc.health import NotServingError
from core.rpc.identity import SpiffeId
from core.rpc.policy import Refusal, acting_as
from core.statements import IssueStatement
from core.transform import embedding_digest, transform_embedding
from parties.audit import Reporter
from parties.inference_server.answering import Answering, Limits
from parties.inference_server.catalogue import Catalogue, ReadyBackbone
from parties.inference_server.engine import NO_FACTS, Logits, Question
from parties.inference_server.engines.torch_engine import TorchEngine
from parties.inference_server.errors import (
    MissingParameterError,
    WaitedTooLongError,
    WrongTensorsError,
)
from parties.inference_server.records import Awaited, Verdicts
from parties.inference_server.releases import Releases
from parties.inference_server.service import InferenceService
from parties.inference_server.store import (
    IssuedName,
    ModelName,
    StoredBackbone,
    StoredIssue,
)
from parties.inference_server.supply import Wanted
from parties.log_watch import LogWatch
from parties.standing import Standing, StandingUnknownError
from protos import audit_pb2, registry_pb2
from protos import open_inference_pb2 as pb
from tests.unit.parties.stage import (
    MODEL,
    NO_CONTEXT,
    OTHER_OWNER_ID,
    OWNER_ID,
    TINY,
    Entropy,
    FakeAuditLog,
    FakeRegistry,
    Release,
    images,
)

LIMITS = Limits(max_images=4, max_message_bytes=1 << 16)
Tamper = Callable[[pb.ModelInferRequest], None]


@dataclass
class Counter:
    """An inference server with one model, issued for two owners."""

    audit: FakeAuditLog = field(default_factory=FakeAuditLog)
    release: Release = field(default_factory=Release)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    ready: bool = True
    obtain: Callable[[Wanted], None] = lambda _wanted: None
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.log = LogWatch(lambda: None)
        self.log.look()
        self.standing = Standing(self.registry.standing, 5.0, clock=lambda: self.now_s)
        for owner in (OWNER_ID, OTHER_OWNER_ID):
            self.registry.enrol(owner)
        self.catalogue = Catalogue(TorchEngine(threads=1))
        tensors = take_apart(self.release.model)[1]
        name = ModelName(MODEL, 1)
        self.catalogue.add_backbone(
            StoredBackbone(name, self.release.manifest, tensors)
        )
        self.issue(OWNER_ID, key(1))
        self.issue(OTHER_OWNER_ID, key(2))

    def issue(self, owner: SpiffeId, owners: BlockKey) -> None:
        weight = transform_embedding(self.release.weight, owners)
        said = IssueStatement(
            key_id=owners.key_id,
            key_version=1,
            owner=str(owner),
            model=MODEL,
            model_version=1,
            digest=embedding_digest(weight).hex(),
            patch_size=TINY.patch_size,
            channels=TINY.channels,
            hidden=TINY.hidden,
        )
        self.catalogue.add_issue(StoredIssue(said, weight))
        self.registry.issued.append(
            registry_pb2.IssuedModel(key_id=owners.key_id, key_version=1)
        )
        self.standing.look()

    @contextmanager
    def asked_by(
        self, caller: SpiffeId = OWNER_ID, verdicts: Verdicts | None = None
    ) -> Iterator[InferenceService]:
        releases = Releases(self.audit)
        with (
            releases.sending(),
            Reporter(self.audit) as reporter,
            acting_as(caller),
        ):
            answering = Answering(
                catalogue=self.catalogue,
                releases=verdicts or releases,
                reporter=reporter,
                limits=LIMITS,
                standing=self.standing,
                log=self.log,
                entropy=Entropy(),
                obtain=self.obtain,
            )
            yield InferenceService(
                answering, self.catalogue, reporter, ready=lambda: self.ready
            )

    def infer(
        self, request: pb.ModelInferRequest, caller: SpiffeId = OWNER_ID
    ) -> pb.ModelInferResponse:
        with self.asked_by(caller) as service:
            return service.ModelInfer(request, NO_CONTEXT)


@pytest.fixture
def counter() -> Counter:
    return Counter()


def key(number: int) -> BlockKey:
    return derive_key(
        bytes([number]) * 32, key_id=f"k{number}", version=1, patch_size=4, channels=3
    )


def question(count: int = 2, **changes: Any) -> pb.ModelInferRequest:
    blocks = encrypt(images(count), key(1))
    request = pb.ModelInferRequest(
        model_name=MODEL,
        id="request-1",
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name="encrypted_blocks", datatype="FP32", shape=blocks.shape
            )
        ],
        raw_input_contents=[blocks.astype("<f4").tobytes()],
    )
    request.parameters["key_id"].string_param = "k1"
    request.parameters["key_version"].int64_param = 1
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def logits_of(answer: pb.ModelInferResponse) -> np.ndarray:
    (output,) = answer.outputs
    (raw,) = answer.raw_output_contents
    return np.frombuffer(raw, "<f4").reshape(tuple(output.shape))


def plain(counter: Counter, count: int = 2) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = counter.release.model(
            torch.from_numpy(images(count))
        ).numpy()
    return logits


def test_the_answer_is_the_plain_models(counter: Counter) -> None:
    answer = counter.infer(question())

    np.testing.assert_allclose(plain(counter), logits_of(answer), atol=1e-5)
    assert ("logits", "FP32") == (answer.outputs[0].name, answer.outputs[0].datatype)
    assert (MODEL, "1") == (answer.model_name, answer.model_version)


def test_the_request_id_is_echoed_or_made(counter: Counter) -> None:
    assert counter.infer(question()).id == "request-1"
    assert len(counter.infer(question(id="")).id) == 36


def test_floats_in_the_message_are_as_good_as_raw_bytes(counter: Counter) -> None:
    raw = question()
    listed = question()
    floats = np.frombuffer(raw.raw_input_contents[0], "<f4")
    listed.ClearField("raw_input_contents")
    listed.inputs[0].contents.fp32_contents.extend(floats.tolist())

    np.testing.assert_array_equal(
        logits_of(counter.infer(raw)), logits_of(counter.infer(listed))
    )


def test_the_record_names_all_and_holds_keyed_digests_only(counter: Counter) -> None:
    request = question()
    answer = counter.infer(request)
    (record,) = counter.audit.records
    nonce = bytes.fromhex(answer.parameters["audit_nonce"].string_param)

    def keyed(content: bytes) -> bytes:
        return hmac.new(nonce, content, hashlib.sha256).digest()

    assert len(nonce) == 32
    assert answer.parameters["audit_index"].int64_param == 0
    assert record == audit_pb2.InferenceRecord(
        request_id="request-1",
        owner=str(OWNER_ID),
        key_id="k1",
        key_version=1,
        model=MODEL,
        model_version=1,
        images=2,
        request_digest=keyed(request.raw_input_contents[0]),
        result_digest=keyed(answer.raw_output_contents[0]),
        compute_ms=record.compute_ms,
        latency_ms=record.latency_ms,
        batch=2,
        event_id=record.event_id,
    )
    assert record.latency_ms >= record.compute_ms > 0


def test_every_answer_has_a_name_of_its_own_in_the_log(counter: Counter) -> None:
    for _ in range(2):
        counter.infer(question())

    first, second = (record.event_id for record in counter.audit.records)
    assert uuid.UUID(first) != uuid.UUID(second)


def test_no_nonce_serves_twice(counter: Counter) -> None:
    with counter.asked_by() as service:
        answers = [service.ModelInfer(question(), NO_CONTEXT) for _ in range(2)]

    assert 2 == len({a.parameters["audit_nonce"].string_param for a in answers})


def test_no_audit_no_answer(counter: Counter) -> None:
    counter.audit.away = True

    with pytest.raises(AuditUnavailable):
        counter.infer(question())


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        ("KeyRefused", "KeyRefused"),
        ("NotGranted", "NotGranted"),
        ("NotAllowed", "NotAllowed"),
        ("BudgetSpent", "BudgetSpent"),
        ("NeverHeardOf", "KeyRefused"),
    ],
)
def test_a_refusing_verdict_is_the_answer(
    counter: Counter, verdict: str, kind: str
) -> None:
    """It is a record already, so it is not reported again."""
    counter.audit.refusal = verdict
    with pytest.raises(KeymixerError) as caught:
        counter.infer(question())

    assert kind == caught.value.kind
    assert [] == counter.audit.of_kind("refused")


def test_anothers_key_is_refused_and_that_is_on_record(counter: Counter) -> None:
    with pytest.raises(RemoteError) as caught:
        counter.infer(question(), OTHER_OWNER_ID)

    assert caught.value.kind == "NotAllowed"
    assert [] == counter.audit.records
    assert counter.audit.of_kind("refused") == [
        {
            "kind": "NotAllowed",
            "method": "/inference.GRPCInferenceService/ModelInfer",
            "request_id": "request-1",
            "model": MODEL,
            "key_id": "k1",
            "key_version": "1",
            "caller": str(OTHER_OWNER_ID),
        }
    ]


def tampered(change: Tamper) -> pb.ModelInferRequest:
    request = question()
    change(request)
    return request


def parameter(name: str, **value: Any) -> Tamper:
    def change(request: pb.ModelInferRequest) -> None:
        del request.parameters[name]
        if value:
            request.parameters[name].CopyFrom(pb.InferParameter(**value))

    return change


def raw(make: Callable[[bytes], bytes]) -> Tamper:
    def change(request: pb.ModelInferRequest) -> None:
        request.raw_input_contents[0] = make(request.raw_input_contents[0])

    return change


def value(number: float) -> Tamper:
    return raw(lambda whole: whole[:-4] + np.float32(number).tobytes())


def shape(*sizes: int) -> Tamper:
    def change(request: pb.ModelInferRequest) -> None:
        request.inputs[0].shape[:] = sizes

    return change


def datatype(name: str) -> Tamper:
    return lambda request: setattr(request.inputs[0], "datatype", name)


def field_of(name: str, content: str) -> Tamper:
    return lambda request: setattr(request, name, content)


def no_input(request: pb.ModelInferRequest) -> None:
    del request.inputs[:]


def no_content(request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[:]


def second_input(request: pb.ModelInferRequest) -> None:
    request.inputs.append(request.inputs[0])


def other_input(request: pb.ModelInferRequest) -> None:
    request.inputs[0].name = "images"


def other_output(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="embedding")


def second_raw(request: pb.ModelInferRequest) -> None:
    request.raw_input_contents.append(b"")


def both_forms(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.fp32_contents.append(1.0)


def too_many(request: pb.ModelInferRequest) -> None:
    request.CopyFrom(question(5))


MALFORMED: Sequence[tuple[str, Tamper, type[KeymixerError]]] = [
    ("no key", parameter("key_id"), MissingParameterError),
    ("empty key", parameter("key_id", string_param=""), MissingParameterError),
    ("key as a number", parameter("key_id", int64_param=1), MissingParameterError),
    ("no key version", parameter("key_version"), MissingParameterError),
    (
        "key version as a text",
        parameter("key_version", string_param="1"),
        MissingParameterError,
    ),
    ("unknown key", parameter("key_id", string_param="k9"), KeyRefusedError),
    ("unknown key version", parameter("key_version", int64_param=9), KeyRefusedError),
    ("negative version", parameter("key_version", int64_param=-1), KeyRefusedError),
    ("unknown model", field_of("model_name", "unknown"), NotFound),
    ("no model", field_of("model_name", ""), NotFound),
    ("unknown model version", field_of("model_version", "2"), NotFound),
    ("a version that is no number", field_of("model_version", "latest"), NotFound),
    ("a version of other digits", field_of("model_version", "\u0661"), NotFound),
    ("a version without end", field_of("model_version", "9" * 5000), NotFound),
    ("a long id", field_of("id", "x" * 129), TooLargeError),
    ("truncated", raw(lambda whole: whole[:-1]), TruncatedError),
    ("one byte more", raw(lambda whole: whole + b"\x00"), TruncatedError),
    ("empty", raw(lambda _: b""), TruncatedError),
    ("oversize", raw(lambda whole: whole * 100), TooLargeError),
    ("NaN", value(np.nan), NonFiniteError),
    ("infinity", value(np.inf), NonFiniteError),
    ("minus infinity", value(-np.inf), NonFiniteError),
    ("float64", datatype("FP64"), DtypeError),
    ("no type", datatype(""), DtypeError),
    ("bytes", datatype("BYTES"), DtypeError),
    ("an image instead of blocks", shape(2, 3, 8, 8), ShapeError),
    ("another patch size", shape(2, 4, 4, 12), ShapeError),
    ("flat", shape(2 * 2 * 2 * 48), ShapeError),
    ("no shape", shape(), ShapeError),
    ("no images", shape(0, 2, 2, 48), ShapeError),
    ("negative", shape(-2, 2, 2, 48), ShapeError),
    ("more images than bytes", shape(3, 2, 2, 48), TruncatedError),
    ("a shape without end", shape(2**62, 2, 2, 48), TooLargeError),
    ("too many images", too_many, TooLargeError),
    ("no input", no_input, WrongTensorsError),
    ("two inputs", second_input, WrongTensorsError),
    ("another input", other_input, WrongTensorsError),
    ("another output", other_output, WrongTensorsError),
    ("no content", no_content, TruncatedError),
    ("two contents", second_raw, WrongTensorsError),
    ("both forms of content", both_forms, WrongTensorsError),
]


@pytest.mark.parametrize(
    ("change", "error"),
    [pytest.param(change, error, id=name) for name, change, error in MALFORMED],
)
def test_a_malformed_request_is_refused_on_record_and_harms_nobody(
    counter: Counter, change: Tamper, error: type[KeymixerError]
) -> None:
    # A refusal that is reported leaves the service as `RemoteError`, of the same kind.
    with pytest.raises((error, RemoteError)) as caught:
        counter.infer(tampered(change))

    assert error.__name__.removesuffix("Error") == caught.value.kind
    assert [] == counter.audit.records
    (refused,) = counter.audit.of_kind("refused")
    assert (caught.value.kind, str(OWNER_ID)) == (refused["kind"], refused["caller"])
    np.testing.assert_allclose(
        plain(counter), logits_of(counter.infer(question())), atol=1e-5
    )


def test_the_protocols_other_methods_answer(counter: Counter) -> None:
    with counter.asked_by() as service:
        metadata = service.ModelMetadata(
            pb.ModelMetadataRequest(name=MODEL), NO_CONTEXT
        )
        assert service.ServerLive(pb.ServerLiveRequest(), NO_CONTEXT).live
        assert service.ServerReady(pb.ServerReadyRequest(), NO_CONTEXT).ready
        assert service.ServerMetadata(pb.ServerMetadataRequest(), NO_CONTEXT).name
        assert service.ModelReady(
            pb.ModelReadyRequest(name=MODEL, version="1"), NO_CONTEXT
        ).ready

    assert metadata.versions == ["1"]
    assert list(metadata.inputs[0].shape) == [-1, 2, 2, 48]
    assert list(metadata.outputs[0].shape) == [-1, 10]
    said = metadata.properties
    assert said["datatypes"] == "FP32,FP16,UINT8"
    assert said["key_parameters"] == "key_id:string,key_version:int64"
    preprocessing = counter.release.manifest.preprocessing
    assert Preprocessing.from_dict(json.loads(said["preprocessing"])) == preprocessing
    assert float(said["uint8_step"]) == uint8_step(preprocessing, TINY.dimension)


def test_a_server_without_its_registry_is_not_ready(counter: Counter) -> None:
    counter.ready = False
    with counter.asked_by() as service:
        assert not service.ServerReady(pb.ServerReadyRequest(), NO_CONTEXT).ready
        assert not service.ModelReady(
            pb.ModelReadyRequest(name=MODEL), NO_CONTEXT
        ).ready


def test_an_unknown_model_is_not_found(counter: Counter) -> None:
    with counter.asked_by() as service:
        with pytest.raises(NotFound):
            service.ModelReady(pb.ModelReadyRequest(name="unknown"), NO_CONTEXT)
        with pytest.raises(NotFound):
            service.ModelReady(
                pb.ModelReadyRequest(name=MODEL, version="9"), NO_CONTEXT
            )
        with pytest.raises(NotFound):
            service.ModelMetadata(
                pb.ModelMetadataRequest(name=MODEL, version="7"), NO_CONTEXT
            )


@pytest.mark.parametrize(
    "state",
    ["pre_active", "suspended", "compromised", "destroy_scheduled", "destroyed"],
)
def test_a_key_that_may_not_be_used_is_refused_before_it_is_computed_with(
    counter: Counter, state: str
) -> None:
    counter.registry.key_states["k1", 1] = state
    counter.standing.look()
    counter.catalogue.serve(
        ModelName(MODEL, 1),
        ReadyBackbone(counter.release.manifest, Untouchable()),
    )

    with pytest.raises(RemoteError) as caught:
        counter.infer(question())
    assert caught.value.kind == "KeyRefused"
    assert [] == counter.audit.records
    assert ["k1"] == [each["key_id"] for each in counter.audit.of_kind("refused")]


class Untouchable:
    """A backbone that no question may reach."""

    facts = NO_FACTS

    def answer(self, questions: Sequence[Question]) -> list[Logits]:
        raise AssertionError("it was asked")


def test_whoever_lost_touch_with_the_registry_answers_nobody(counter: Counter) -> None:
    """The answer is neither a refusal nor on record as one: it may work later."""
    counter.now_s = 5.0
    assert counter.infer(question()).id
    counter.now_s = 5.001
    with pytest.raises(StandingUnknownError):
        counter.infer(question())
    counter.standing.look()

    assert counter.infer(question()).id
    assert [] == counter.audit.of_kind("refused")


class SlowBackbone:
    """A backbone that holds each computation until a test lets it go on."""

    facts = NO_FACTS

    def __init__(self) -> None:
        self.begun = Semaphore(0)
        self.go_on = Semaphore(0)
        self.asked = 0

    def answer(self, questions: Sequence[Question]) -> list[Logits]:
        self.asked += 1
        self.begun.release()
        assert self.go_on.acquire(timeout=20)
        return [np.zeros((len(each.blocks), 10), np.float32) for each in questions]


@dataclass
class Caller:
    """A caller as gRPC's context shows it: present or gone, with a deadline or none."""

    left_s: float | None = None
    there: bool = True
    looked: Event = field(default_factory=Event)

    def is_active(self) -> bool:
        return self.there

    def time_remaining(self) -> float | None:
        self.looked.set()
        return self.left_s


@dataclass
class Queue:
    """A slow server, with one request in work and one that waits behind it."""

    counter: Counter
    backbone: SlowBackbone = field(default_factory=SlowBackbone)
    second: Caller = field(default_factory=Caller)

    @contextmanager
    def full(self) -> Iterator["Future[pb.ModelInferResponse]"]:
        """Give the second request's future; the first goes on when the block ends."""
        ready = ReadyBackbone(self.counter.release.manifest, self.backbone)
        self.counter.catalogue.serve(ModelName(MODEL, 1), ready)
        releases = Releases(self.counter.audit)
        with (
            releases.sending(),
            Reporter(self.counter.audit) as reporter,
            ThreadPoolExecutor(2) as pool,
        ):
            answering = Answering(
                catalogue=self.counter.catalogue,
                releases=releases,
                reporter=reporter,
                limits=LIMITS,
                standing=self.counter.standing,
                log=self.counter.log,
            )
            service = InferenceService(
                answering, self.counter.catalogue, reporter, ready=lambda: True
            )
            first = pool.submit(_ask_as, OWNER_ID, service, question(), NO_CONTEXT)
            assert self.backbone.begun.acquire(timeout=20)
            waiting = pool.submit(_ask_as, OWNER_ID, service, question(), self.second)
            assert self.second.looked.wait(20)
            try:
                yield waiting
            finally:
                for _ in range(2):
                    self.backbone.go_on.release()
                first.exception(20)
                waiting.exception(20)


def _ask_as(
    caller: SpiffeId,
    service: InferenceService,
    request: pb.ModelInferRequest,
    context: Any,
) -> pb.ModelInferResponse:
    with acting_as(caller):
        return service.ModelInfer(request, context)


def test_what_waited_while_its_key_was_revoked_is_not_computed(
    counter: Counter,
) -> None:
    queue = Queue(counter)
    with queue.full() as waiting:
        counter.registry.key_states["k1", 1] = "destroy_scheduled"
        counter.standing.look()

    with pytest.raises(RemoteError) as caught:
        waiting.result()
    assert caught.value.kind == "KeyRefused"
    assert queue.backbone.asked == 1


def test_what_waited_while_its_owner_was_revoked_is_not_computed(
    counter: Counter,
) -> None:
    queue = Queue(counter)
    with queue.full() as waiting:
        counter.registry.parties[str(OWNER_ID)].state = "revoked"
        counter.standing.look()

    with pytest.raises(RemoteError) as caught:
        waiting.result()
    assert caught.value.kind == "NotAllowed"
    assert queue.backbone.asked == 1


def test_what_waited_until_the_registry_was_out_of_touch_is_not_computed(
    counter: Counter,
) -> None:
    queue = Queue(counter)
    with queue.full() as waiting:
        counter.now_s = 5.001

    with pytest.raises(StandingUnknownError):
        waiting.result()
    assert queue.backbone.asked == 1


def test_a_deadline_that_ends_in_the_queue_ends_the_wait(counter: Counter) -> None:
    queue = Queue(counter, second=Caller(left_s=0.05))
    with queue.full() as waiting:
        assert isinstance(waiting.exception(20), WaitedTooLongError)

    assert queue.backbone.asked == 1
    assert len(counter.audit.records) == 1


def test_nothing_is_computed_for_a_caller_who_has_left(counter: Counter) -> None:
    queue = Queue(counter)
    with queue.full() as waiting:
        queue.second.there = False

    assert isinstance(waiting.exception(), WaitedTooLongError)
    assert queue.backbone.asked == 1
    assert counter.audit.of_kind("refused") == []


def test_an_answer_that_came_too_late_is_not_recorded_as_given(
    counter: Counter,
) -> None:
    """The caller left while its own question was computed."""
    caller = Caller()
    queue = Queue(counter, second=caller)
    with queue.full():
        queue.backbone.go_on.release()
        assert queue.backbone.begun.acquire(timeout=20)
        caller.there = False

    assert queue.backbone.asked == 2
    assert len(counter.audit.records) == 1


class Reluctant(FakeAuditLog):
    """Refuses single events of one caller; is away at first."""

    def record_events(self, events: Sequence[audit_pb2.Event]) -> None:
        if self.away:
            self.away = False
            raise AuditUnavailable("away")
        if any(event.subject["method"] == "poison" for event in events):
            raise InvalidInput("malformed")
        self.events.extend(events)


def report(reporter: Reporter, method: str, caller: str = "") -> None:
    reporter.tell(Refusal(caller, method, "NotAllowed"))


def test_a_refusal_waits_while_the_log_is_away() -> None:
    audit = Reluctant(away=True)
    with Reporter(audit) as reporter:
        report(reporter, "m")
        until = time.monotonic() + 60
        while not audit.events and time.monotonic() < until:
            time.sleep(0.01)

    assert ["m"] == [each["method"] for each in audit.of_kind("refused")]


def test_one_report_the_log_refuses_holds_up_no_other() -> None:
    audit = Reluctant()
    with Reporter(audit) as reporter:
        for method in ("a", "poison", "b"):
            report(reporter, method)

    *recorded, lost = audit.of_kind("refused")
    assert ["a", "b"] == [each["method"] for each in recorded]
    assert ("ReportsLost", "1") == (lost["kind"], lost["count"])


def test_a_caller_without_a_spiffe_id_is_recorded_as_nobody() -> None:
    audit = FakeAuditLog()
    with Reporter(audit) as reporter:
        report(reporter, "m", "somebody\n" * 100)

    (refused,) = audit.of_kind("refused")
    assert "" == refused["caller"]
    assert 512 == len(refused["claimed_caller"])


def test_refusals_beyond_the_room_are_counted() -> None:
    audit = FakeAuditLog()
    reporter = Reporter(audit, room=2)
    for _ in range(5):
        report(reporter, "m")
    with reporter:
        pass

    refused = audit.of_kind("refused")
    assert ["NotAllowed", "NotAllowed", "ReportsLost"] == [r["kind"] for r in refused]
    assert "3" == refused[-1]["count"]


class Broken:
    """A backbone that fails as no error of ours."""

    facts = NO_FACTS

    def answer(self, questions: Sequence[Question]) -> list[Logits]:
        raise RuntimeError("it quotes 0.123, of a picture")


def ended(counter: Counter) -> list[tuple[str, str]]:
    """How the log says that each request ended: the record's kind, and the error's."""
    answers = [("inference", "") for _ in counter.audit.records]
    return answers + [
        (each.kind, each.subject["kind"])
        for each in counter.audit.events
        if each.kind in {"refused", "failed"}
    ]


def test_an_engine_that_breaks_is_on_record_without_what_it_said(
    counter: Counter,
) -> None:
    ready = ReadyBackbone(counter.release.manifest, Broken())
    counter.catalogue.serve(ModelName(MODEL, 1), ready)
    with pytest.raises(RuntimeError):
        counter.infer(question())

    assert ended(counter) == [("failed", "Internal")]
    (failed,) = counter.audit.of_kind("failed")
    assert (failed["caller"], failed["request_id"]) == (str(OWNER_ID), "request-1")
    assert "0.123" not in str(failed)


def test_what_waited_too_long_is_on_record_once(counter: Counter) -> None:
    queue = Queue(counter, second=Caller(left_s=0.01))
    with queue.full() as waiting:
        assert isinstance(waiting.exception(20), WaitedTooLongError)

    assert ended(counter) == [("inference", ""), ("failed", "WaitedTooLong")]


def test_what_found_the_registry_out_of_touch_is_on_record_once(
    counter: Counter,
) -> None:
    counter.now_s = 6.0
    with pytest.raises(StandingUnknownError):
        counter.infer(question())

    assert ended(counter) == [("failed", "StandingUnknown")]


def test_a_refusal_is_on_record_once_and_is_no_failure(counter: Counter) -> None:
    with pytest.raises(RemoteError):
        counter.infer(question(), OTHER_OWNER_ID)
    with pytest.raises(ShapeError):
        counter.infer(tampered(shape(1, 2)))

    assert ended(counter) == [("refused", "NotAllowed"), ("refused", "Shape")]


def test_a_verdict_that_refuses_is_no_failure(counter: Counter) -> None:
    counter.audit.refusal = "KeyRefused"
    with pytest.raises(RemoteError):
        counter.infer(question())

    assert ended(counter) == [("inference", "")]


class Absent:
    """A log that takes reports and no records, until it is there again."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def record_events(self, events: Sequence[audit_pb2.Event]) -> None:
        self.kinds += [event.subject["kind"] for event in events]

    def record_inferences(
        self,
        records: Sequence[audit_pb2.InferenceRecord],
        *,
        timeout_s: float | None = None,
    ) -> list[audit_pb2.InferenceVerdict]:
        raise AuditUnavailable("away")


def test_an_answer_that_could_not_be_recorded_is_a_failure_on_record(
    counter: Counter,
) -> None:
    absent: Any = Absent()
    counter.audit = absent
    with pytest.raises(AuditUnavailable):
        counter.infer(question())

    assert absent.kinds == ["AuditUnavailable"]


def test_while_the_log_is_away_nothing_is_computed_and_the_caller_learns_why(
    counter: Counter,
) -> None:
    def away() -> None:
        raise NotServingError("NOT_SERVING", "Storage: free space")

    ready = ReadyBackbone(counter.release.manifest, Untouchable())
    counter.catalogue.serve(ModelName(MODEL, 1), ready)
    counter.log = LogWatch(away)
    counter.log.look()
    with pytest.raises(AuditUnavailable) as caught:
        counter.infer(question())

    assert caught.value.hint == "the log is away: Storage: free space"
    assert ended(counter) == [("failed", "AuditUnavailable")]


class HeldLog(FakeAuditLog):
    """A log whose verdicts wait until a test lets them go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = Event(), Event()

    def record_inferences(
        self,
        records: Sequence[audit_pb2.InferenceRecord],
        *,
        timeout_s: float | None = None,
    ) -> list[audit_pb2.InferenceVerdict]:
        self.begun.set()
        assert self.go_on.wait(20)
        return super().record_inferences(records, timeout_s=timeout_s)


def test_the_next_is_computed_while_the_one_before_is_recorded(
    counter: Counter,
) -> None:
    held, backbone = HeldLog(), SlowBackbone()
    counter.audit = held
    ready = ReadyBackbone(counter.release.manifest, backbone)
    counter.catalogue.serve(ModelName(MODEL, 1), ready)
    backbone.go_on.release(2)
    with counter.asked_by() as service, ThreadPoolExecutor(2) as pool:
        first = pool.submit(_ask_as, OWNER_ID, service, question(), NO_CONTEXT)
        assert backbone.begun.acquire(timeout=20)
        assert held.begun.wait(20)
        second = pool.submit(_ask_as, OWNER_ID, service, question(), NO_CONTEXT)
        try:
            assert backbone.begun.acquire(timeout=20), "it waited for the record"
            assert not first.done()
        finally:
            held.go_on.set()
        assert first.result(20).id
        assert second.result(20).id


def as_datatype(counter: Counter, datatype: str) -> pb.ModelInferRequest:
    """The question, its blocks packed another way."""
    request = question()
    shape = tuple(request.inputs[0].shape)
    blocks = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(shape)
    step = uint8_step(counter.release.manifest.preprocessing, TINY.dimension)
    request.inputs[0].datatype = datatype
    request.raw_input_contents[0] = encode(blocks, datatype, step)
    return request


@pytest.mark.parametrize(("datatype", "error"), [("FP16", 0.01), ("UINT8", 0.2)])
def test_fewer_bytes_give_nearly_the_same_answer_and_their_own_digest(
    counter: Counter, datatype: str, error: float
) -> None:
    request = as_datatype(counter, datatype)
    exact = np.frombuffer(counter.infer(question()).raw_output_contents[0], "<f4")

    answer = counter.infer(request)

    found = np.frombuffer(answer.raw_output_contents[0], "<f4")
    assert 0 < np.abs(exact - found).max() < error
    nonce = bytes.fromhex(answer.parameters["audit_nonce"].string_param)
    sent = hmac.digest(nonce, request.raw_input_contents[0], "sha256")
    assert counter.audit.records[-1].request_digest == sent


def test_bytes_may_come_as_a_list_of_numbers(counter: Counter) -> None:
    raw, listed = as_datatype(counter, "UINT8"), as_datatype(counter, "UINT8")
    listed.inputs[0].contents.uint_contents[:] = raw.raw_input_contents[0]
    del listed.raw_input_contents[:]

    answers = [counter.infer(each).raw_output_contents[0] for each in (raw, listed)]
    assert answers[0] == answers[1]


def test_a_list_of_numbers_that_are_no_bytes_is_refused(counter: Counter) -> None:
    request = as_datatype(counter, "UINT8")
    request.inputs[0].contents.uint_contents[:] = [256] * len(
        request.raw_input_contents[0]
    )
    del request.raw_input_contents[:]

    with pytest.raises(DtypeError):
        counter.infer(request)


def test_halves_are_sent_raw_and_are_numbers(counter: Counter) -> None:
    listed, infinite = as_datatype(counter, "FP16"), as_datatype(counter, "FP16")
    del listed.raw_input_contents[:]
    raw = infinite.raw_input_contents[0]
    infinite.raw_input_contents[0] = b"\x00\x7c" + raw[2:]

    with pytest.raises(WrongTensorsError):
        counter.infer(listed)
    with pytest.raises(NonFiniteError):
        counter.infer(infinite)
    assert not counter.audit.records


def asked_again(question_id: str = "ab" * 32) -> pb.ModelInferRequest:
    request = question()
    request.parameters["question_id"].string_param = question_id
    return request


class Hasty:
    """A log whose verdict is there before whoever handed the record in goes on."""

    def ask(
        self,
        record: audit_pb2.InferenceRecord,
        told: Callable[[Awaited], None],
        *,
        timeout_s: float | None = None,
    ) -> None:
        del record, timeout_s
        told(self)
        # The caller is awake by now, and gets the interpreter.
        time.sleep(0.05)

    def verdict(self) -> audit_pb2.InferenceVerdict:
        return audit_pb2.InferenceVerdict(index=7)


def test_a_verdict_that_comes_at_once_releases_the_answer(counter: Counter) -> None:
    """Whoever computed it hands its record in, while its caller waits elsewhere."""
    with (
        counter.asked_by(verdicts=Hasty()) as service,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = [
            pool.submit(_ask_as, OWNER_ID, service, question(1), NO_CONTEXT)
            for _ in range(16)
        ]
        answers = [each.result(20) for each in asked]

    assert {7} == {each.parameters["audit_index"].int64_param for each in answers}


def test_a_question_that_is_asked_again_has_the_same_name_and_digest(
    counter: Counter,
) -> None:
    """By these the log knows it: of the same owner, and of the same images."""
    with counter.asked_by() as service:
        answers = [service.ModelInfer(asked_again(), NO_CONTEXT) for _ in range(2)]

    first, second = counter.audit.records
    assert (first.event_id, first.request_digest) == (
        second.event_id,
        second.request_digest,
    )
    assert first.names_question
    assert second.names_question
    (nonce,) = {a.parameters["audit_nonce"].string_param for a in answers}
    assert nonce != "ab" * 32
    assert "ab" * 32 not in first.event_id


def test_two_questions_have_two_names(counter: Counter) -> None:
    counter.infer(asked_again())
    counter.infer(asked_again("cd" * 32))

    assert 2 == len({record.event_id for record in counter.audit.records})


@pytest.mark.parametrize("wrong", ["ab", "AB" * 32, "xy" * 32, "ab" * 33])
def test_a_question_id_is_32_bytes_in_hex(counter: Counter, wrong: str) -> None:
    with pytest.raises(KeymixerError) as caught:
        counter.infer(asked_again(wrong))

    assert caught.value.kind == "QuestionId"
    assert [] == counter.audit.records


def test_what_is_live_and_not_here_is_fetched_and_answered(counter: Counter) -> None:
    """For a key in use only: a wrong one has nothing fetched."""
    name = IssuedName("k1", 1, MODEL, 1)
    issue = counter.catalogue.find(MODEL, 1, "k1", 1).issue
    counter.catalogue.remove_issue(name)
    wanted: list[Wanted] = []

    def obtain(each: Wanted) -> None:
        wanted.append(each)
        counter.catalogue.add_issue(issue)

    counter.obtain = obtain
    counter.infer(question())

    assert wanted == [Wanted(str(OWNER_ID), MODEL, None, "k1", 1)]
    assert len(counter.audit.records) == 1


def refused_by_the_log(counter: Counter) -> None:
    counter.audit.refusal = "BudgetSpent"


def broken(counter: Counter) -> None:
    ready = ReadyBackbone(counter.release.manifest, Broken())
    counter.catalogue.serve(ModelName(MODEL, 1), ready)


def as_it_was(_counter: Counter) -> None:
    """Nothing goes wrong."""


@pytest.mark.parametrize("happens", [as_it_was, refused_by_the_log, broken])
def test_nothing_of_a_request_stays_behind(
    counter: Counter, happens: Callable[[Counter], None]
) -> None:
    """Without Python's search for cycles: what it finds it finds late, and by MiB."""
    with counter.asked_by() as service:
        happens(counter)
        gc.collect()
        gc.disable()
        # pytest keeps what is logged, with its tracebacks.
        logging.disable()
        try:
            before = _requests_in_memory()
            _ended(service, 5)
            until_s = time.monotonic() + 10
            while _requests_in_memory() > before and time.monotonic() < until_s:
                time.sleep(0.01)
            assert _requests_in_memory() == before
        finally:
            logging.disable(logging.NOTSET)
            gc.enable()


def _ended(service: InferenceService, times: int) -> None:
    for _ in range(times):
        with suppress(KeymixerError, RuntimeError):
            service.ModelInfer(question(), NO_CONTEXT)


def _requests_in_memory() -> int:
    return sum(type(each) is pb.ModelInferRequest for each in gc.get_objects())
