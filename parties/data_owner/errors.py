"""What can go wrong at a data owner, and a peer's refusal as a refusal.

NoKeyError              KeyRefusedError: there is no key that may be used now
KeyNotReadyError        Unavailable: a key did not become usable in time
IncompleteError         Unavailable: some images got no answer
UnexpectedAnswerError   Refused: an answer is not one to what was asked
PeerRefusedError        RemoteError, Refused: the peer said no
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from grpc import StatusCode

from core.errors import KeyRefusedError, Refused, Unavailable
from core.rpc.errors import RemoteError, remote_errors

_NO: Final = frozenset(
    {
        StatusCode.FAILED_PRECONDITION,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNAUTHENTICATED,
    }
)


class NoKeyError(KeyRefusedError):
    """The owner has no key that may be used now."""

    hint = "ask the operator for a grant and a key; see `keymixer keys`"


class KeyNotReadyError(Unavailable):
    """A key was not active, or no model was issued for it, in time."""

    hint = "see `keymixer keys` and `keymixer issued`, and the orchestrator's log"


class IncompleteError(Unavailable):
    """Some images got no answer."""

    hint = "see the failures by kind, and ask again"


class UnexpectedAnswerError(Refused):
    """An answer has another shape, id or model than the question."""

    hint = "the inference server or its model is not what the registry says"


class PeerRefusedError(RemoteError, Refused):
    """A peer refused; it told the kind and the hint."""


@contextmanager
def answers_of(peer: str) -> Iterator[None]:
    """Like `remote_errors`, but a refusal is a `Refused` here too."""
    try:
        with remote_errors(peer):
            yield
    except RemoteError as error:
        if error.status not in _NO:
            raise
        raise PeerRefusedError(
            error.kind, error.hint, error.status, peer=peer
        ) from error
