"""What comes over a call: the messages of streams and of the log, statuses, headers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final

import grpc
import numpy as np
from opentelemetry.sdk.trace import TracerProvider

from core.errors import PeerUnavailable
from core.merkle import HASH_BYTES, verify_consistency, verify_inclusion
from core.rpc.errors import RemoteError, remote_errors
from core.rpc.identity import INFERENCE_SERVER, SpiffeId, caller_of
from core.rpc.patience import Patience, asked_pause_s
from orchestrator.audit import decisions, events
from orchestrator.audit import service as audit
from parties.data_owner import recorded
from parties.data_owner.answers import Answers
from parties.data_owner.exchange import Asked, Exchange, Mailbox
from parties.data_owner.inference import Pixels, Use
from parties.data_owner.servers import Servers
from parties.inference_server import protocol
from parties.inference_server.spans import SpanTracer
from protos import audit_pb2, bulk_pb2
from protos import open_inference_pb2 as pb
from tests.fuzz import specimens as s
from tests.unit.parties.stage import OWNER_ID

_TRACER: Final = SpanTracer(TracerProvider().get_tracer("fuzz"))


def read_request(request: pb.ModelInferRequest) -> None:
    """As the server does."""
    protocol.read_key(request)
    protocol.read_version(request.model_version)
    protocol.read_id(request)
    protocol.read_question_id(request)
    protocol.read_blocks(request, s.MANIFEST, max_images=64, max_bytes=1 << 16)
    protocol.sent_bytes(request)


def request(data: bytes) -> None:
    read_request(pb.ModelInferRequest.FromString(data))


def streamed_request(data: bytes) -> None:
    read_request(bulk_pb2.InferStreamRequest.FromString(data).request)


@dataclass
class _Owner:
    """Asks again as it is told to, and is answered at once."""

    streams: Servers[Any] = field(
        default_factory=lambda: Servers([None], Patience(), deadline_s=30.0)
    )
    max_answer_bytes: int = 1 << 16

    async def write(self, images: Pixels) -> Asked:
        return Asked(images, s.USE, s.REQUEST)

    async def send(self, request: pb.ModelInferRequest, use: Use) -> Answers:
        return await self.ask_anew(np.zeros((2, 8, 8, 3), np.uint8))

    async def ask_anew(self, images: Pixels) -> Answers:
        return Answers(np.zeros((len(images), 1), np.float32), ("a",), ())

    async def pause(self, seconds: float, /) -> None:
        assert 0 <= seconds < self.streams.deadline_s

    def mailbox(self) -> Mailbox:
        raise NotImplementedError


async def _nothing() -> AsyncIterator[Pixels]:
    return
    yield


def streamed_answer(data: bytes) -> None:
    response = bulk_pb2.InferStreamResponse.FromString(data)
    asked = Asked(np.zeros((2, 8, 8, 3), np.uint8), s.USE, s.REQUEST)
    asyncio.run(Exchange(_Owner(), _nothing())._settled(asked, response))


def reported(data: bytes) -> None:
    message = audit_pb2.RecordEventsRequest.FromString(data)
    for each in message.events:
        events._check_event(INFERENCE_SERVER, audit._event(each))


def released(data: bytes) -> None:
    message = audit_pb2.RecordInferencesRequest.FromString(data)
    for each in message.records:
        decisions._check(audit._inference(each))


def question(data: bytes) -> None:
    message = audit_pb2.ListEntriesRequest.FromString(data)
    audit._page_size(message)
    audit._question(OWNER_ID, message)


def record(data: bytes) -> None:
    """A record that the log proves, held against what was expected of it."""
    recorded._differing(SimpleNamespace(extra=data, index=0), "", {"a": 1})  # type: ignore[arg-type]


class _Ended(grpc.RpcError, grpc.Call):
    """A call that ended with a number, a line of details, and the rest as a trailer."""

    def __init__(self, data: bytes) -> None:
        number, _, rest = data.partition(b" ")
        text, _, pause = rest.decode(errors="replace").partition("\n")
        statuses = list(grpc.StatusCode)
        self._said = statuses[len(number) % len(statuses)], text, pause

    def code(self) -> grpc.StatusCode:
        return self._said[0]

    def details(self) -> str:
        return self._said[1]

    def trailing_metadata(self) -> Any:
        return (("grpc-retry-pushback-ms", self._said[2]),)

    initial_metadata = is_active = time_remaining = cancel = add_callback = None  # type: ignore[assignment]


def ended(data: bytes) -> None:
    error = _Ended(data)
    pause_s = asked_pause_s(error)
    assert pause_s is None or pause_s >= 0
    Patience(unsure=True).pause_s(error, 1, 30.0)
    with suppress(RemoteError, PeerUnavailable), remote_errors("the peer"):
        raise error


def trace_parent(data: bytes) -> None:
    text = data.decode(errors="replace")
    call = SimpleNamespace(invocation_metadata=lambda: (("traceparent", text),))
    _TRACER.begin("method", call, 0.0).end()


@dataclass(frozen=True)
class _Caller:
    facts: Mapping[str, object]

    def auth_context(self) -> Mapping[str, object]:
        return self.facts


def caller(data: bytes) -> SpiffeId:
    """The name that TLS found in a certificate."""
    return caller_of(_Caller({"peer_spiffe_id": [data]}), OWNER_ID.federation)


def inclusion(data: bytes) -> None:
    index, size, path = _proof(data)
    verify_inclusion(
        leaf=s.LEAVES[0], index=index, size=size, path=path, root_hash=s.ROOT
    )
    # The size is the checkpoint's to say: other trees have the same path.
    assert index == 0


def consistency(data: bytes) -> None:
    first, second, path = _proof(data)
    verify_consistency(
        first_size=first,
        second_size=second,
        first_root=s.LEAVES[0],
        second_root=s.ROOT,
        path=path,
    )


def _proof(data: bytes) -> tuple[int, int, list[bytes]]:
    """Two numbers of a byte, and hashes; the last one may be cut short."""
    first, second = (*data[:2], 0, 0)[:2]
    rest = data[2:]
    path = [rest[at : at + HASH_BYTES] for at in range(0, len(rest), HASH_BYTES)]
    return first, second, path
