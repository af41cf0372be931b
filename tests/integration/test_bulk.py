"""The bulk stream over real TLS: order, refusals, a sender that does not read, ends."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest

from core.errors import KeymixerError
from core.rpc.identity import SpiffeId
from core.rpc.patience import asked_pause_s
from orchestrator.registry.lifecycle import KeyAction
from protos import bulk_pb2 as pb
from protos import bulk_pb2_grpc as rpc
from protos import open_inference_pb2 as infer_pb
from tests.integration.cast import Cast
from tests.integration.hub import LONG_S, Hub, open_hub, wait_until
from tests.integration.hub import question as blank
from tests.integration.test_inference_server import cast as cast  # noqa: PLC0414
from tests.integration.test_inference_server import question
from tests.unit.orchestrator.ledger import ALDER_ID, BIRCH_ID, CLOUD_ID
from tests.unit.parties.stage import KEY_HOLDER_ID, OWNER_ID, SERVER_ID

INFER_STREAM = "/keymixer.v1.BulkInferenceService/InferStream"


class Stream:
    """One stream: what is `sent` goes out, and answers are read when asked for."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._queue: SimpleQueue[pb.InferStreamRequest | None] = SimpleQueue()
        stub = rpc.BulkInferenceServiceStub(channel)
        self.call: Any = stub.InferStream(iter(self._queue.get, None), timeout=LONG_S)

    def send(self, *requests: infer_pb.ModelInferRequest) -> None:
        for request in requests:
            self._queue.put(pb.InferStreamRequest(request=request))

    def end(self) -> list[pb.InferStreamResponse]:
        """Send no more, and read all answers that are left."""
        self._queue.put(None)
        return list(self.call)

    def close(self) -> None:
        self._queue.put(None)
        self.call.cancel()


@contextmanager
def streaming(cast: Cast, who: SpiffeId, to: SpiffeId = SERVER_ID) -> Iterator[Stream]:
    with cast.channel(who, to) as channel:
        stream = Stream(channel)
        try:
            yield stream
        finally:
            stream.close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with open_hub(tmp_path) as hub, hub.serving():
        yield hub


def numbered(
    request: infer_pb.ModelInferRequest, number: int
) -> infer_pb.ModelInferRequest:
    copy = infer_pb.ModelInferRequest()
    copy.CopyFrom(request)
    copy.id = f"request-{number}"
    return copy


def many(cast: Cast, count: int) -> list[infer_pb.ModelInferRequest]:
    request = question(cast)
    return [numbered(request, number) for number in range(count)]


def large(cast: Cast, pictures: int) -> infer_pb.ModelInferRequest:
    """Its answer is so large that few of them fit into what the transport holds."""
    request = question(cast)
    tensor = request.inputs[0]
    tensor.datatype, tensor.shape[0] = "UINT8", pictures
    request.raw_input_contents[0] = bytes(math.prod(tensor.shape))
    return request


def ids(answers: Sequence[pb.InferStreamResponse]) -> list[str]:
    return [each.answer.id or each.error.request_id for each in answers]


def records(hub: Hub) -> int:
    """How many answers the log holds."""
    return len(hub.ledger.entries("inference"))


def test_every_request_of_a_stream_is_answered_in_order_and_recorded(
    cast: Cast,
) -> None:
    with cast.inference_server():
        with streaming(cast, OWNER_ID) as stream:
            stream.send(*many(cast, 30))
            answers = stream.end()
        with cast.channel(OWNER_ID, SERVER_ID) as channel:
            alone = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                infer_pb.ModelInferRequest.SerializeToString,
                infer_pb.ModelInferResponse.FromString,
            )(question(cast))

    assert [f"request-{number}" for number in range(30)] == ids(answers)
    recorded = {record.request_id for record in cast.audit.records}
    assert set(ids(answers)) <= recorded
    for each in answers:
        np.testing.assert_allclose(
            np.frombuffer(alone.raw_output_contents[0], "<f4"),
            np.frombuffer(each.answer.raw_output_contents[0], "<f4"),
            atol=1e-5,
        )


def test_one_that_is_refused_among_many_does_not_end_the_stream(cast: Cast) -> None:
    requests = many(cast, 9)
    requests[2].inputs[0].shape[0] = 2
    requests[5].parameters["key_id"].string_param = "another"
    with cast.inference_server(), streaming(cast, OWNER_ID) as stream:
        stream.send(*requests)
        answers = stream.end()

    assert [f"request-{number}" for number in range(9)] == ids(answers)
    refused = {each.error.request_id: each.error for each in answers if each.error.kind}
    assert list(refused) == ["request-2", "request-5"]
    truncated = refused["request-2"]
    assert (truncated.kind, truncated.code) == ("Truncated", 3)
    assert truncated.hint.startswith("send the tensor again")
    assert not truncated.HasField("retry_after_s")
    events = cast.audit.of_kind("refused")
    assert [("Truncated", INFER_STREAM, "request-2", str(OWNER_ID))] == [
        (each["kind"], each["method"], each["request_id"], each["caller"])
        for each in events
        if each["kind"] == "Truncated"
    ]


def test_without_the_log_no_request_of_a_stream_is_answered(cast: Cast) -> None:
    with cast.inference_server(), streaming(cast, OWNER_ID) as stream:
        stream.send(*many(cast, 1))
        first = next(stream.call)
        cast.audit.away = True
        stream.send(*many(cast, 3))
        rest = stream.end()
        cast.audit.away = False

    assert first.answer.id
    assert {"AuditUnavailable"} == {each.error.kind for each in rest}
    assert len(rest) == 3


def test_what_may_come_later_says_when(cast: Cast) -> None:
    cast.addresses.setdefault(KEY_HOLDER_ID, "127.0.0.1:1")
    slow = {"images_per_s": 0.01, "burst": 3}
    with limited(cast, slow), streaming(cast, OWNER_ID) as stream:
        request, late = many(cast, 2)
        stream.send(request)
        first = next(stream.call)
        stream.send(late)
        (second,) = stream.end()

    assert first.answer.id == "request-0"
    assert (second.error.kind, second.error.code) == ("TooFast", 8)
    assert second.error.retry_after_s > 100


@contextmanager
def limited(cast: Cast, limit: dict[str, float]) -> Iterator[None]:
    """The server, with a rate that every owner has."""
    settle = cast.settle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            cast, "settle", lambda who, *peers: settle(who, *peers, limit=limit)
        )
        with cast.inference_server():
            yield


def test_only_an_owner_may_stream(cast: Cast) -> None:
    with (
        cast.inference_server(),
        pytest.raises(KeymixerError) as caught,
        streaming(cast, KEY_HOLDER_ID) as stream,
    ):
        stream.end()

    assert caught.value.kind == "NotAllowed"


def test_one_owner_cannot_hold_every_stream(cast: Cast) -> None:
    with cast.inference_server(), ExitStack() as stack:
        for _ in range(4):
            stream = stack.enter_context(streaming(cast, OWNER_ID))
            stream.send(*many(cast, 1))
            assert next(stream.call).answer.id
        fifth = stack.enter_context(streaming(cast, OWNER_ID))
        with pytest.raises(grpc.RpcError) as caught:
            fifth.end()
        stream.end()
        wait_until(lambda: opens(cast))

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert asked_pause_s(caught.value)


def opens(cast: Cast) -> bool:
    """Whether there is room for a stream, and an answer on it."""
    with streaming(cast, OWNER_ID) as stream:
        stream.send(*many(cast, 1))
        try:
            return len(stream.end()) == 1
        except grpc.RpcError:
            return False


def test_who_reads_no_answers_is_read_no_further(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what the transport holds, the server holds eight requests, and no more."""
    total, read = 300, []

    def size(asked: Any) -> int:
        read.append(asked.request.id)
        return 1

    monkeypatch.setattr("parties.inference_server.service.size", size)
    request = large(cast, 800)
    with cast.inference_server(), streaming(cast, OWNER_ID) as stream:
        stream.send(*(numbered(request, number) for number in range(total)))
        settled(lambda: len(read))
        held = len(read)
        answered = len(cast.audit.records)
        answers = stream.end()

    assert 8 <= held < 2 * total / 3
    assert answered <= held
    assert [f"request-{number}" for number in range(total)] == ids(answers)


def settled(count: Any) -> None:
    """Return once a count has begun, and not grown for a while."""
    last, since = 0, time.monotonic()
    until = time.monotonic() + LONG_S
    while not last or time.monotonic() - since < 1.5:
        assert time.monotonic() < until
        if (now := count()) != last:
            last, since = now, time.monotonic()
        time.sleep(0.05)


def test_a_key_revoked_in_mid_stream_refuses_the_next_request(hub: Hub) -> None:
    with hub.inference_server(), streaming(hub.cast, ALDER_ID, CLOUD_ID) as stream:
        hub.engine.let_go_on(1)
        stream.send(blank(ALDER_ID))
        first = next(stream.call)
        hub.ledger.move(ALDER_ID, 1, KeyAction.REVOKE)
        hub.wait_heard()
        stream.send(blank(ALDER_ID))
        (second,) = stream.end()

    assert first.answer.id
    assert (second.error.kind, second.error.code) == ("KeyRefused", 9)


def test_who_leaves_in_mid_stream_is_not_recorded_as_answered(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is computed, others wait: none of them is recorded, for none was answered."""
    calls: list[Any] = []

    def size(asked: Any) -> int:
        calls.append(asked.call)
        return 1

    monkeypatch.setattr("parties.inference_server.service.size", size)
    with hub.inference_server():
        with streaming(hub.cast, ALDER_ID, CLOUD_ID) as stream:
            stream.send(*(blank(ALDER_ID) for _ in range(3)))
            hub.engine.wait_begun()
            hub.turns.wait_for(3)
            stream.call.cancel()
            wait_until(lambda: not calls[0].is_active())
        hub.engine.let_go_on(2)
        with streaming(hub.cast, BIRCH_ID, CLOUD_ID) as stream:
            stream.send(blank(BIRCH_ID))
            (answer,) = stream.end()

    assert answer.answer.id
    assert hub.engine.asked == 2
    assert records(hub) == 1


def test_a_server_that_stops_answers_what_it_has_read_and_ends_the_stream(
    hub: Hub,
) -> None:
    with ExitStack() as server:
        server.enter_context(hub.inference_server())
        with streaming(hub.cast, ALDER_ID, CLOUD_ID) as stream:
            stream.send(*(numbered(blank(ALDER_ID), number) for number in range(2)))
            hub.engine.wait_begun()
            hub.turns.wait_for(2)
            server.close()
            answers = [next(stream.call) for _ in range(2)]
            stream.send(blank(ALDER_ID))
            with pytest.raises(grpc.RpcError) as caught:
                next(stream.call)

    assert ["request-0", "request-1"] == ids(answers)
    assert records(hub) == 2
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert str(caught.value.details()).startswith("StreamEnded: ")
    assert asked_pause_s(caught.value)
