"""The way of each request, told to whoever draws it on a time line; by default nobody.

Where traces go is a setting, or the variable that OpenTelemetry's own tools read. Its
library is imported only then: see `spans`.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, urlsplit

from core.errors import ConfigurationError

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PATH: Final = "/v1/traces"


class TracingNotInstalledError(ConfigurationError):
    """Traces are to be sent, and OpenTelemetry's library is not there."""

    hint = (
        "pip install 'keymixer[tracing]', or take away `serving.tracing` and the "
        f"variables {ENDPOINT} and {TRACES_ENDPOINT}"
    )


class Carrier(Protocol):
    """What of `grpc.ServicerContext` says whose trace a call belongs to."""

    def invocation_metadata(self) -> Any:
        """Pairs of a name and a value."""
        ...


class Trace(Protocol):
    """One request; all times are on the clock of `time.perf_counter`."""

    def stage(self, name: str, start_s: float, end_s: float) -> None:
        """Tell of a part of its way that is over."""
        ...

    def end(self, kind: str = "", *, images: int = 0, batch: int = 0) -> None:
        """Tell that it was answered, or by an error of which kind not."""
        ...


class Tracer(Protocol):
    """Draws; never fails and never waits."""

    def begin(self, method: str, call: Carrier, arrived_s: float) -> Trace:
        """Tell of a request that has arrived."""
        ...


class NoTracer:
    """Draws nothing: it is its own trace."""

    def begin(self, method: str, call: Carrier, arrived_s: float) -> Trace:
        """Draw nothing."""
        del method, call, arrived_s
        return self

    def stage(self, name: str, start_s: float, end_s: float) -> None:
        """Draw nothing."""

    def end(self, kind: str = "", *, images: int = 0, batch: int = 0) -> None:
        """Draw nothing."""


def traces_url(setting: str, environment: Mapping[str, str]) -> str:
    """Where traces go; empty: nowhere. The setting comes before the environment.

    Raises:
        ConfigurationError: there they could be read on the way.
    """
    base = setting or environment.get(ENDPOINT, "")
    whole = "" if setting else environment.get(TRACES_ENDPOINT, "")
    url = whole or (base.rstrip("/") + _PATH if base else "")
    if url:
        _require_safe(urlsplit(url))
    return url


@contextmanager
def traced(url: str) -> Iterator[Tracer]:
    """Send traces to a collector until the block ends; without a URL send none.

    Raises:
        TracingNotInstalledError: the extra `tracing` is missing.
    """
    if not url:
        yield NoTracer()
        return
    try:
        spans = import_module("parties.inference_server.spans")
    except ModuleNotFoundError as error:
        raise TracingNotInstalledError(f"no module {error.name}") from error
    with spans.exported(url) as tracer:
        yield tracer


def _require_safe(url: SplitResult) -> None:
    if url.scheme == "https" and url.hostname:
        return
    if url.scheme != "http" or not _is_loopback(url.hostname or ""):
        raise ConfigurationError(
            "tracing: expected https://HOST:PORT, or http://127.0.0.1:PORT on this "
            f"machine, got {url.scheme!r:.20} and host {url.hostname!r:.80}"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
