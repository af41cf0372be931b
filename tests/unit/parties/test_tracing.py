"""Traces go to a collector that is safe to send to, and say nothing of anybody."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from core.errors import ConfigurationError
from parties.inference_server.tracing import (
    ENDPOINT,
    TRACES_ENDPOINT,
    NoTracer,
    TracingNotInstalledError,
    traced,
    traces_url,
)
from tests.unit.parties.collector import collecting, facts

METHOD = "/inference.GRPCInferenceService/ModelInfer"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Call:
    """A call with metadata."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        return self._metadata


def test_a_request_is_a_span_with_its_stages_below_it() -> None:
    now_s, now_ns = time.perf_counter(), time.time_ns()
    with collecting() as collector:
        with traced(f"{collector.url}/v1/traces") as tracer:
            trace = tracer.begin(METHOD, Call(), now_s - 3.0)
            trace.stage("decode", now_s - 3.0, now_s - 2.0)
            trace.stage("queue", now_s - 2.0, now_s - 1.5)
            trace.end(images=3, batch=7)
        (whole,) = collector.requests()

    assert collector.paths == ["/v1/traces"]
    assert whole.name == METHOD.lstrip("/")
    assert facts(whole) == {
        "rpc.system": "grpc",
        "keymixer.images": 3,
        "keymixer.batch": 7,
    }
    assert whole.start_time_unix_nano == pytest.approx(now_ns - 3e9, abs=60e9, rel=0)
    stages = collector.parts(whole)
    lengths = {part.name: length_s(part) for part in stages}
    assert lengths == pytest.approx({"decode": 1.0, "queue": 0.5}, abs=1e-5)
    assert list(lengths) == ["decode", "queue"]
    assert {part.trace_id for part in stages} == {whole.trace_id}


def length_s(span: object) -> float:
    ended, began = (
        getattr(span, name) for name in ("end_time_unix_nano", "start_time_unix_nano")
    )
    return float(ended - began) / 1e9


def test_a_request_without_an_answer_says_the_kind() -> None:
    with collecting() as collector:
        with traced(f"{collector.url}/v1/traces") as tracer:
            tracer.begin(METHOD, Call(), time.perf_counter()).end("KeyRefused")
        (whole,) = collector.requests()

    assert facts(whole) == {"rpc.system": "grpc", "error.type": "KeyRefused"}
    assert whole.status.code == Status.STATUS_CODE_ERROR


def test_the_callers_trace_is_gone_on_with_and_nothing_else_of_it_is_taken() -> None:
    said = (
        ("traceparent", f"00-{TRACE}-{PARENT}-01"),
        ("tracestate", "vendor=ward-seven"),
        ("baggage", "patient=anna"),
    )
    with collecting() as collector:
        with traced(f"{collector.url}/v1/traces") as tracer:
            tracer.begin(METHOD, Call(*said), time.perf_counter()).end()
        (whole,) = collector.requests()

    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    assert not [body for body in collector.bodies if b"ward" in body or b"anna" in body]


@pytest.mark.parametrize(
    "value", ["", "nonsense", b"\xff\xfe", f"00-{'0' * 32}-{PARENT}-01"]
)
def test_a_malformed_trace_is_as_none(value: str | bytes) -> None:
    with collecting() as collector:
        with traced(f"{collector.url}/v1/traces") as tracer:
            call = Call(("traceparent", value))
            tracer.begin(METHOD, call, time.perf_counter()).end()
        (whole,) = collector.requests()

    assert not whole.parent_span_id


def test_a_proxy_of_the_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with collecting() as proxy, collecting() as collector:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        with traced(f"{collector.url}/v1/traces") as tracer:
            tracer.begin(METHOD, Call(), time.perf_counter()).end()

        assert (len(collector.bodies), len(proxy.bodies)) == (1, 0)


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        ("", {}, ""),
        ("http://127.0.0.1:4318", {}, "http://127.0.0.1:4318/v1/traces"),
        ("", {ENDPOINT: "https://otel.test/"}, "https://otel.test/v1/traces"),
        ("", {ENDPOINT: "http://[::1]:4318"}, "http://[::1]:4318/v1/traces"),
        ("", {TRACES_ENDPOINT: "https://otel.test/in"}, "https://otel.test/in"),
        (
            "http://localhost:1",
            {TRACES_ENDPOINT: "https://otel.test/in", ENDPOINT: "https://otel.test"},
            "http://localhost:1/v1/traces",
        ),
    ],
)
def test_the_setting_comes_before_the_environment(
    setting: str, environment: dict[str, str], expected: str
) -> None:
    assert expected == traces_url(setting, environment)


@pytest.mark.parametrize(
    "url",
    [
        "http://otel.test:4318",
        "http://192.0.2.1:4318",
        "http://localhost.otel.test",
        "127.0.0.1:4318",
        "file:///tmp/traces",
        "https://",
    ],
)
def test_without_tls_nobody_else_may_read_them(url: str) -> None:
    with pytest.raises(ConfigurationError, match="tracing: expected https"):
        traces_url(url, {})
    with pytest.raises(ConfigurationError, match="tracing: expected https"):
        traces_url("", {ENDPOINT: url})


def test_without_the_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "parties.inference_server.spans", raising=False)
    # As `import` has it: a module that is None cannot be found.
    missing: Any = None
    monkeypatch.setitem(sys.modules, "opentelemetry", missing)
    with (
        pytest.raises(TracingNotInstalledError) as caught,
        traced("http://127.0.0.1:4318/v1/traces"),
    ):
        pass

    assert "pip install 'keymixer[tracing]'" in caught.value.hint


def test_without_a_collector_nothing_is_drawn() -> None:
    with traced("") as tracer:
        assert isinstance(tracer, NoTracer)
        assert tracer.begin(METHOD, Call(), 0.0) is tracer
