"""What the server counts, for Prometheus to fetch from `/metrics`.

No owner, model or key is a label: who asks how often is nobody's business but the
audit log's, and as many time series as owners would be no metrics any more.
"""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from core.errors import ConfigurationError

_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class PrometheusMeter:
    """A `Meter` that counts in memory; see docs/observability.md for each name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"keymixer_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                f"keymixer_{name}", what, buckets=buckets, registry=registry
            )

        self._answers = counter("answers", "Requests that were answered.")
        self._refusals = counter("refusals", "Requests that ended in an error.", "kind")
        self._received = counter("received_bytes", "Encrypted blocks of the answered.")
        self._sent = counter("sent_bytes", "Logits that were sent.")
        self._images = histogram("batch_images", "Images in a batch.", _SIZES)
        self._requests = histogram("batch_requests", "Requests in a batch.", _SIZES)
        self._owners = histogram("batch_owners", "Owners in a batch.", _SIZES)
        self._queue = histogram("queue_seconds", "Wait before computing.", _SECONDS)
        self._compute = histogram("compute_seconds", "Computing a batch.", _SECONDS)
        self._audit = histogram("audit_seconds", "Wait for the record.", _SECONDS)

    def batched(
        self, *, images: int, requests: int, owners: int, compute_s: float
    ) -> None:
        """Count one batch."""
        self._images.observe(images)
        self._requests.observe(requests)
        self._owners.observe(owners)
        self._compute.observe(compute_s)

    def answered(
        self, *, queue_s: float, audit_s: float, received: int, sent: int
    ) -> None:
        """Count one answer."""
        self._answers.inc()
        self._queue.observe(queue_s)
        self._audit.observe(audit_s)
        self._received.inc(received)
        self._sent.inc(sent)

    def refused(self, kind: str) -> None:
        """Count one request without an answer, by the error's class."""
        self._refusals.labels(kind).inc()


@contextmanager
def exported(registry: CollectorRegistry, address: str) -> Iterator[str]:
    """Answer `GET /metrics` at `host:port`, and give the address with its real port.

    Raises:
        ConfigurationError: it is not this machine's loopback, for there is no TLS; or
            somebody listens there already.
    """
    host, _, port = address.rpartition(":")
    _require_loopback(host)
    try:
        server, thread = start_http_server(int(port), host, registry)
    except OSError as error:
        raise ConfigurationError(f"metrics: cannot listen on {address}") from error
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _require_loopback(host: str) -> None:
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ConfigurationError(
            f"metrics: expected an address such as 127.0.0.1, got {host!r:.80}; they "
            "are served without TLS, so put a proxy with TLS before them"
        )
