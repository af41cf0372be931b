"""Run a party as it is, and keep every message it receives.

    python -m tests.federation.tapped parties.key_holder --folder F

The tap sits where gRPC hands bytes over, after TLS: requests that reach a server's
methods and answers that reach a client's stubs. They are appended to
`$KEYMIXER_TAP/<module>-<pid>.messages`. The party's own code does not change.
"""

import os
import runpy
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import _channel

Deserializer = Callable[[bytes], Any]
HANDLERS = (
    "unary_unary_rpc_method_handler",
    "unary_stream_rpc_method_handler",
    "stream_unary_rpc_method_handler",
    "stream_stream_rpc_method_handler",
)
CALLS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def tap(path: Path) -> None:
    """Keep every message this process receives from now on."""
    lock = threading.Lock()

    def keep(message: bytes) -> None:
        with lock, path.open("ab") as file:
            file.write(message)

    for name in HANDLERS:
        setattr(grpc, name, _tapped_handler(getattr(grpc, name), keep))
    for name in CALLS:
        original = getattr(_channel.Channel, name)
        setattr(_channel.Channel, name, _tapped_call(original, keep))


def _tapped_handler(
    make: Callable[..., Any], keep: Callable[[bytes], None]
) -> Callable[..., Any]:
    def handler(
        behavior: Any,
        request_deserializer: Deserializer | None = None,
        response_serializer: Any = None,
    ) -> Any:
        tapped = _tapped(request_deserializer, keep)
        return make(behavior, tapped, response_serializer)

    return handler


def _tapped_call(
    call: Callable[..., Any], keep: Callable[[bytes], None]
) -> Callable[..., Any]:
    def stub(
        self: Any,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Deserializer | None = None,
        *rest: Any,
        **options: Any,
    ) -> Any:
        tapped = _tapped(response_deserializer, keep)
        return call(self, method, request_serializer, tapped, *rest, **options)

    return stub


def _tapped(
    deserialize: Deserializer | None, keep: Callable[[bytes], None]
) -> Deserializer:
    def tapped(message: bytes) -> Any:
        keep(message)
        return deserialize(message) if deserialize else message

    return tapped


def main() -> None:
    """Tap, then run the module named on the command line."""
    module = sys.argv[1]
    folder = Path(os.environ["KEYMIXER_TAP"])
    sys.argv = sys.argv[1:]
    tap(folder / f"{module}-{os.getpid()}.messages")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
