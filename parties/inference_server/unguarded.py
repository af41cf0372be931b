"""The server with a part taken off, to measure what that part costs.

`python -m parties.inference_server.unguarded --folder F --without audit`: it answers
without a record, or without TLS. It serves no federation but the one that is made to
measure, `bench.keymixer`, and whoever calls it without TLS is who it says.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeAlias

import grpc

from core.errors import WrongFederationError
from core.rpc import logs
from core.rpc.errors import rpc_errors
from core.rpc.health import Health
from core.rpc.identity import Identity, SpiffeId
from core.rpc.policy import Policy, acting_as
from core.rpc.server import RunningServer, ServerSettings
from parties.inference_server.__main__ import running
from parties.inference_server.allocator import giving_back, keep_few_arenas
from parties.inference_server.records import Awaited
from parties.inference_server.settings import Settings
from protos import audit_pb2 as pb

FEDERATION: Final = "bench.keymixer"
CALLER: Final = "caller"
AUDIT: Final = "audit"
TLS: Final = "tls"

# gRPC's handlers are generic in their stubs, but not when they run.
_Handler: TypeAlias = Any


def main() -> int:
    """Serve without the audit log, or without TLS, until told to stop."""
    parser = argparse.ArgumentParser(
        prog="python -m parties.inference_server.unguarded"
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--without", choices=[AUDIT, TLS], action="append", default=[])
    asked = parser.parse_args()
    logs.configure()
    keep_few_arenas()
    require_measuring(Settings.read(asked.folder).federation)
    parts: dict[str, Any] = {}
    if AUDIT in asked.without:
        parts["recorded"] = lambda _releases: Unrecorded()
    if TLS in asked.without:
        parts["serving"] = without_tls
    with giving_back(), running(asked.folder, **parts) as server:
        server.wait()
    return 0


def require_measuring(federation: str) -> None:
    """Raise `WrongFederationError` for any federation but the one that measures."""
    if federation != FEDERATION:
        raise WrongFederationError(
            f"without its guards a server serves {FEDERATION} only, not {federation}"
        )


class Unrecorded:
    """Lets every answer go at once."""

    def ask(
        self,
        record: pb.InferenceRecord,
        told: Callable[[Awaited], None],
        *,
        timeout_s: float | None = None,
    ) -> None:
        """Have it go; it is in no log."""
        del record, timeout_s
        told(self)

    def verdict(self) -> pb.InferenceVerdict:
        """Let it go."""
        return pb.InferenceVerdict()


@contextmanager
def without_tls(
    _identity: Identity,
    _policy: Policy,
    register: Callable[[grpc.Server], None],
    names: Sequence[str],
    address: str,
    *,
    settings: ServerSettings,
    admit: Callable[[SpiffeId], None],
    **_rest: Any,
) -> Iterator[RunningServer]:
    """Serve in clear, on the loopback only, otherwise as `serve` does."""
    del address
    with ThreadPoolExecutor(settings.workers) as pool:
        server = grpc.server(pool, interceptors=[_Believing(admit)])
        register(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        named = f"127.0.0.1:{port}"
        yield RunningServer(named, port, Health(), tuple(names), SimpleQueue())
        server.stop(settings.drain_s).wait()


class _Believing(grpc.ServerInterceptor):
    """Takes the caller's word for who it is; all else is checked as ever."""

    def __init__(self, admit: Callable[[SpiffeId], None]) -> None:
        self._admit = admit

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method, answer = handler_call_details.method, handler.unary_unary

        def believed(request: Any, context: grpc.ServicerContext) -> Any:
            with rpc_errors(context, method):
                caller = SpiffeId.parse(
                    str(dict(context.invocation_metadata())[CALLER])
                )
                self._admit(caller)
                with acting_as(caller):
                    return answer(request, context)

        return grpc.unary_unary_rpc_method_handler(
            believed, handler.request_deserializer, handler.response_serializer
        )


if __name__ == "__main__":
    sys.exit(main())
