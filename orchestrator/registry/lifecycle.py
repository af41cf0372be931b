"""The life of a key version as data, in NIST words; and the other rows' states."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from orchestrator.errors import TransitionRefused


class KeyState(StrEnum):
    """Where a key version stands."""

    PRE_ACTIVE = "pre_active"
    ACTIVE = "active"
    RETIRING = "retiring"
    SUSPENDED = "suspended"
    COMPROMISED = "compromised"
    DESTROY_SCHEDULED = "destroy_scheduled"
    DESTROYED = "destroyed"


class KeyAction(StrEnum):
    """What may be done to a key version."""

    CREATE = "create"
    ACTIVATE = "activate"
    RETIRE = "retire"
    SUSPEND = "suspend"
    RESUME = "resume"
    COMPROMISE = "compromise"
    REVOKE = "revoke"
    EXPIRE = "expire"
    DESTROY = "destroy"
    CANCEL = "cancel"


class IssuedState(StrEnum):
    """Where an issued model stands."""

    PENDING = "pending"
    LIVE = "live"
    RETIRING = "retiring"
    GONE = "gone"


class PartyState(StrEnum):
    """Whether a party may still take part."""

    ACTIVE = "active"
    REVOKED = "revoked"


class Period(StrEnum):
    """What a budget is for: all time, or each day or month in UTC."""

    TOTAL = "total"
    DAY = "day"
    MONTH = "month"


class JobState(StrEnum):
    """Where a job stands."""

    READY = "ready"
    WAITING = "waiting"
    NEEDS_OPERATOR = "needs_operator"
    DONE = "done"
    ABORTED = "aborted"


class ApprovalState(StrEnum):
    """Where a request for approval stands."""

    PENDING = "pending"
    APPROVED = "approved"
    EXECUTED = "executed"
    REJECTED = "rejected"
    EXPIRED = "expired"


# As SQL: the jobs that still have something to do, of which a subject has one.
OPEN_JOBS: Final = "state IN ('ready', 'waiting', 'needs_operator')"

# A key version that does not exist yet has the state None.
TRANSITIONS: Final[Mapping[tuple[str | None, str], KeyState]] = MappingProxyType(
    {
        (None, KeyAction.CREATE): KeyState.PRE_ACTIVE,
        (KeyState.PRE_ACTIVE, KeyAction.ACTIVATE): KeyState.ACTIVE,
        (KeyState.PRE_ACTIVE, KeyAction.COMPROMISE): KeyState.COMPROMISED,
        (KeyState.PRE_ACTIVE, KeyAction.REVOKE): KeyState.DESTROY_SCHEDULED,
        (KeyState.ACTIVE, KeyAction.RETIRE): KeyState.RETIRING,
        (KeyState.ACTIVE, KeyAction.SUSPEND): KeyState.SUSPENDED,
        (KeyState.ACTIVE, KeyAction.COMPROMISE): KeyState.COMPROMISED,
        (KeyState.ACTIVE, KeyAction.REVOKE): KeyState.DESTROY_SCHEDULED,
        (KeyState.RETIRING, KeyAction.SUSPEND): KeyState.SUSPENDED,
        (KeyState.RETIRING, KeyAction.COMPROMISE): KeyState.COMPROMISED,
        (KeyState.RETIRING, KeyAction.REVOKE): KeyState.DESTROY_SCHEDULED,
        (KeyState.RETIRING, KeyAction.EXPIRE): KeyState.DESTROY_SCHEDULED,
        (KeyState.SUSPENDED, KeyAction.RESUME): KeyState.ACTIVE,
        (KeyState.SUSPENDED, KeyAction.COMPROMISE): KeyState.COMPROMISED,
        (KeyState.SUSPENDED, KeyAction.REVOKE): KeyState.DESTROY_SCHEDULED,
        (KeyState.COMPROMISED, KeyAction.REVOKE): KeyState.DESTROY_SCHEDULED,
        (KeyState.DESTROY_SCHEDULED, KeyAction.DESTROY): KeyState.DESTROYED,
        (KeyState.DESTROY_SCHEDULED, KeyAction.CANCEL): KeyState.SUSPENDED,
    }
)

# A retiring version is usable until its `retire_at_ms`; the caller checks the time.
USABLE: Final[frozenset[str]] = frozenset({KeyState.ACTIVE, KeyState.RETIRING})


def next_state(state: str | None, action: str) -> KeyState:
    """Return the state after `action`, or raise `TransitionRefused`."""
    try:
        return TRANSITIONS[state, action]
    except KeyError:
        was = state or "not created"
        raise TransitionRefused(f"a key that is {was} cannot {action}") from None
