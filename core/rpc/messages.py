"""What a call sends, and what cannot be read of it.

gRPC for Python ends a call whose message it cannot read, and once more when the caller
then hangs up. The core refuses the second end, and what was made ready for it is never
let go of: some 10 KB a call (seen in grpcio 1.85.1), which any caller can have a server
pile up. So here nothing is unreadable to gRPC: what was sent instead of a message goes
on as one, and ends the call as any other wrong input does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from core.errors import InvalidInput

Deserialiser: TypeAlias = Callable[[bytes], Any]

_UNREADABLE: Final = object()


class UnreadableMessageError(InvalidInput):
    """The bytes are no message of the kind that the method takes."""

    hint = "send what the .proto file says of this method; is it of another version?"


def leniently(deserialise: Deserialiser | None) -> Deserialiser | None:
    """Read like this, but give a mark for what cannot be read."""
    if deserialise is None:
        return None

    def read(content: bytes) -> Any:
        try:
            return deserialise(content)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, a caller sent it
            return _UNREADABLE

    return read


def require_read(message: Any) -> Any:
    """Return a message that `leniently` read, or raise `UnreadableMessageError`."""
    if message is _UNREADABLE:
        raise UnreadableMessageError("these bytes are no message")
    return message


def each_read(messages: Iterator[Any]) -> Iterator[Any]:
    """The same of a stream: it ends with the first that could not be read."""
    return map(require_read, messages)
