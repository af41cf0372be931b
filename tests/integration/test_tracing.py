"""A server that is told where traces go: each request's way, and nobody's name."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import grpc
import pytest

from core.errors import ConfigurationError
from parties.inference_server import __main__ as inference_server
from protos import bulk_pb2
from protos import bulk_pb2_grpc as bulk_rpc
from protos import open_inference_pb2_grpc as rpc
from tests.integration.cast import INFERENCE_SERVICE, Cast
from tests.integration.test_inference_server import cast as cast  # noqa: PLC0414
from tests.integration.test_inference_server import question
from tests.unit.parties.collector import Collector, collecting, facts
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    ORCHESTRATOR_ID,
    OWNER_ID,
    SERVER_ID,
)

STAGES = ["decode", "queue", "compute", "audit"]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLERS = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)


@contextmanager
def server(cast: Cast, **settings: str) -> Iterator[None]:
    cast.addresses.setdefault(KEY_HOLDER_ID, "127.0.0.1:1")
    folder = cast.settle(SERVER_ID, ORCHESTRATOR_ID, KEY_HOLDER_ID, **settings)
    with inference_server.running(folder):
        cast.found(SERVER_ID, INFERENCE_SERVICE)
        yield


def ask(cast: Cast) -> None:
    """One request that is answered, and one that is refused."""
    refused = question(cast)
    refused.inputs[0].shape[0] = 2
    with cast.channel(OWNER_ID, SERVER_ID) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(question(cast), metadata=CALLERS)
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(refused)


def require_traced(collector: Collector) -> None:
    answered, refused = sorted(
        collector.requests(), key=lambda span: span.start_time_unix_nano
    )
    parts = collector.parts(answered)

    assert [part.name for part in parts] == STAGES
    for before, after in pairwise(parts):
        assert before.end_time_unix_nano <= after.start_time_unix_nano + 1000
    assert facts(answered)["keymixer.images"] == 3
    assert answered.trace_id.hex() == TRACE
    assert answered.parent_span_id.hex() == PARENT
    assert facts(refused)["error.type"] == "Truncated"


def test_a_request_is_drawn_from_its_arrival_to_its_record(cast: Cast) -> None:
    with collecting() as collector:
        with server(cast, tracing=collector.url):
            ask(cast)

        require_traced(collector)


def test_the_variable_of_opentelemetrys_tools_is_read(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with server(cast):
            ask(cast)

        require_traced(collector)


def test_no_owner_key_model_or_request_is_in_a_trace(cast: Cast) -> None:
    request = question(cast)
    request.id = "request-of-anna"
    with collecting() as collector:
        with (
            server(cast, tracing=collector.url),
            cast.channel(OWNER_ID, SERVER_ID) as channel,
        ):
            rpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        sent = b"".join(collector.bodies)

    assert b"ModelInfer" in sent
    names = [OWNER_ID.organisation, str(OWNER_ID), request.id, MODEL, "key_id"]
    assert not [name for name in names if name.encode() in sent]


def test_each_request_of_a_stream_is_drawn_below_its_caller(cast: Cast) -> None:
    requests = [bulk_pb2.InferStreamRequest(request=question(cast))] * 3
    with collecting() as collector:
        with (
            server(cast, tracing=collector.url),
            cast.channel(OWNER_ID, SERVER_ID) as channel,
        ):
            stub = bulk_rpc.BulkInferenceServiceStub(channel)
            list(stub.InferStream(iter(requests), metadata=CALLERS))
        drawn = collector.requests()

    assert len(drawn) == len(requests)
    assert {span.parent_span_id.hex() for span in drawn} == {PARENT}


def test_a_collector_that_is_away_costs_no_answer(cast: Cast) -> None:
    with server(cast, tracing="http://127.0.0.1:1"):
        ask(cast)

    assert len(cast.audit.records) == 1


def test_a_server_that_would_send_them_in_clear_does_not_start(cast: Cast) -> None:
    with (
        pytest.raises(ConfigurationError, match="tracing: expected https"),
        server(cast, tracing="http://192.0.2.1:4318"),
    ):
        pass


def test_without_configuration_the_library_is_not_even_imported() -> None:
    program = (
        "import sys, parties.inference_server.__main__\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)

    assert done.returncode == 0
