"""Traces for OpenTelemetry, sent by OTLP over HTTP; imported only if they are wanted.

No span names an owner, a key, a model or a request: as with the metrics, who asked for
what is in the audit log alone. A caller's own trace is gone on with by its
`traceparent`; whatever else it sends of it stays where it is.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final

import requests
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from parties.inference_server.tracing import Carrier

SERVICE: Final = "keymixer-inference-server"
_PARENT: Final = "traceparent"
# A collector that is away holds nobody up for longer, not even at the end.
_TIMEOUT_S: Final = 2.0


@contextmanager
def exported(url: str) -> Iterator["SpanTracer"]:
    """Send spans to a collector, in batches and from a thread of its own."""
    with requests.Session() as session:
        # A proxy named in the environment is no place for what is kept on loopback.
        session.trust_env = False
        exporter = OTLPSpanExporter(url, timeout=_TIMEOUT_S, session=session)
        with drawn(exporter) as tracer:
            yield tracer


@contextmanager
def drawn(exporter: SpanExporter) -> Iterator["SpanTracer"]:
    """Hand spans to an exporter until the block ends; then what is left of them."""
    version = metadata.version("keymixer")
    facts = {"service.name": SERVICE, "service.version": version}
    provider = TracerProvider(resource=Resource.create(facts), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield SpanTracer(provider.get_tracer("keymixer", version))
    finally:
        provider.shutdown()


@dataclass(frozen=True, slots=True)
class SpanTracer:
    """Draws each request as a span, and its stages below it, once it has ended."""

    tracer: trace.Tracer

    def begin(self, method: str, call: Carrier, arrived_s: float) -> "SpanTrace":
        """Begin a request, as a part of the caller's own trace if it names one."""
        return SpanTrace(self.tracer, method, _parent(call), arrived_s)


@dataclass(slots=True)
class SpanTrace:
    """One request, of which nothing is drawn until its end."""

    tracer: trace.Tracer
    method: str
    parent: Context
    arrived_s: float
    stages: list[tuple[str, float, float]] = field(default_factory=list)

    def stage(self, name: str, start_s: float, end_s: float) -> None:
        """Keep a stage for the end."""
        self.stages.append((name, start_s, end_s))

    def end(self, kind: str = "", *, images: int = 0, batch: int = 0) -> None:
        """Draw the request and its stages, with the times at which they were."""
        now_s, now_ns = time.perf_counter(), time.time_ns()

        def at(moment_s: float) -> int:
            return now_ns - int((now_s - moment_s) * 1e9)

        whole = self.tracer.start_span(
            self.method.lstrip("/"),
            self.parent,
            trace.SpanKind.SERVER,
            _facts(kind, images, batch),
            start_time=at(self.arrived_s),
        )
        below = trace.set_span_in_context(whole, Context())
        for name, start_s, end_s in self.stages:
            part = self.tracer.start_span(name, below, start_time=at(start_s))
            part.end(at(end_s))
        if kind:
            whole.set_status(trace.StatusCode.ERROR)
        whole.end(now_ns)


def _facts(kind: str, images: int, batch: int) -> dict[str, str | int]:
    facts: dict[str, str | int] = {"rpc.system": "grpc"}
    if kind:
        return facts | {"error.type": kind}
    return facts | {"keymixer.images": images, "keymixer.batch": batch}


def _parent(call: Carrier) -> Context:
    """The caller's `traceparent`; one that is malformed is as none."""
    said = [value for name, value in call.invocation_metadata() if name == _PARENT]
    carrier = {_PARENT: said[0]} if said and isinstance(said[0], str) else {}
    return TraceContextTextMapPropagator().extract(carrier, Context())
