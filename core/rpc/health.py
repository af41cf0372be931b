"""Health that says why not: the protocol has no room for a reason, so a trailer has."""

from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from core.errors import PeerUnavailable
from core.rpc.errors import remote_errors

# The reason is a kind and a hint, both constants: any peer may read it.
BECAUSE: Final = "keymixer-not-serving-because"
_LONGEST: Final = 500


class NotServingError(PeerUnavailable):
    """A peer answers that it does not serve now; `why` is its reason, or empty."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(
            f"its health check says {status}" + (f": {why}" if why else "")
        )
        self.why = why


class Health(health.HealthServicer):  # type: ignore[misc]  # it has no types
    """The library's servicer; `why` is told with every check."""

    def __init__(self) -> None:
        super().__init__(experimental_non_blocking=False)
        self.why = ""

    def Check(  # noqa: N802 - the protocol's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Any:
        if self.why:
            context.set_trailing_metadata(((BECAUSE, self.why),))
        return super().Check(request, context)


def require_serving(
    channel: grpc.Channel, service: str, peer: str, timeout_s: float
) -> None:
    """Ask a peer once whether it serves; an empty `service` is all of it.

    Raises:
        NotServingError: it answers that it does not.
        KeymixerError: it does not answer, or not us.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    with remote_errors(peer):
        answer, call = stub.Check.with_call(request, timeout=timeout_s)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        word = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise NotServingError(word, _reason(call))


def _reason(call: Any) -> str:
    """What the peer says, as far as a terminal may show it."""
    told = dict(call.trailing_metadata() or ())
    said = str(told.get(BECAUSE, ""))[:_LONGEST]
    return "".join(each for each in said if each.isprintable())
