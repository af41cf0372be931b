"""What comes of a step that failed: what passes by itself, and what is said of it."""

from typing import Final

from grpc import StatusCode

from core.errors import KeymixerError, NotFound, Unavailable
from core.rpc.errors import RemoteError
from orchestrator.registry.models import Job
from orchestrator.workflows import jobs
from orchestrator.workflows.jobs import Kind, Step

# A job put off waits so long first, then twice as long each time, up to a bound.
FIRST_PAUSE_MS: Final = 200
LONGEST_PAUSE_MS: Final = 30_000
# A bug may be a passing one; three times it is not.
TRIES_OF_A_BUG: Final = 3

# What these answer may still be on its way: an upload by the provider.
_AWAIT_UPLOADS: Final = frozenset({Step.PREPARE, Step.SEND})
_PASSING: Final = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
    }
)
# The seed may be destroyed; the former version must still come to its end.
_NO_WAY_BACK: Final = frozenset({Step.DESTROY, Step.OVERLAP})
_ENDINGS: Final = frozenset({Kind.REVOKE, Kind.DESTROY})
_TOO_LARGE: Final = "TooLarge"
_UNFORESEEN: Final = frozenset({StatusCode.INTERNAL, StatusCode.UNKNOWN})


def pause_ms(attempts: int) -> int:
    """How long a step waits that has failed so often: twice as long each time."""
    # Shifted further, it would only be a larger number than the bound.
    return min(FIRST_PAUSE_MS << min(attempts, 16), LONGEST_PAUSE_MS)


def passes_by_itself(job: Job, error: Exception) -> bool:
    """Is there hope without an operator: a peer away, an upload still to come?"""
    if _is_bug(error):
        return jobs.stumble(job) < TRIES_OF_A_BUG
    if _is_missing(error):
        return job.step in _AWAIT_UPLOADS
    if isinstance(error, RemoteError) and error.kind != _TOO_LARGE:
        return error.status in _PASSING
    return isinstance(error, Unavailable)


def kind_of(error: Exception) -> str:
    """The kind of error, for a record."""
    return error.kind if isinstance(error, KeymixerError) else type(error).__name__


def why(error: Exception) -> str:
    """The reason, for an operator; what a bug says stays in our log."""
    if isinstance(error, KeymixerError):
        return f"{error.kind}: {error}"
    return f"{type(error).__name__}: see the orchestrator's log"


def advice(job: Job) -> str:
    """What an operator can do about it; each of it is possible as things stand."""
    again = f"`keymixer jobs retry {job.id}`"
    if job.step in _NO_WAY_BACK:
        return again
    if job.kind in _ENDINGS and job.key_version is not None:
        return f"{again} or `{jobs.restoring(job.key_version)}`"
    return f"{again} or `keymixer jobs abort {job.id}`"


def _is_bug(error: Exception) -> bool:
    """Did something happen that nobody has foreseen, here or at the peer?"""
    if isinstance(error, RemoteError):
        return error.status in _UNFORESEEN
    return not isinstance(error, KeymixerError)


def _is_missing(error: Exception) -> bool:
    if isinstance(error, RemoteError):
        return error.status is StatusCode.NOT_FOUND
    return isinstance(error, NotFound)
