"""Every action in every state, against a table written from the words, not the code."""

import pytest

from core.errors import KeyRefusedError
from orchestrator.errors import TransitionRefused
from orchestrator.registry.lifecycle import (
    TRANSITIONS,
    USABLE,
    KeyAction,
    KeyState,
    next_state,
)

# One row a state, one column an action, in this order; a dot is a refusal.
ACTIONS = (
    *("create", "activate", "retire", "suspend", "resume"),
    *("compromise", "revoke", "expire", "destroy", "cancel"),
)
EXPECTED = """
-                  P . . . . . . . . .
pre_active         . A . . . C D . . .
active             . . R S . C D . . .
retiring           . . . S . C D D . .
suspended          . . . . A C D . . .
compromised        . . . . . . D . . .
destroy_scheduled  . . . . . . . . X S
destroyed          . . . . . . . . . .
"""
LETTERS = {
    "P": "pre_active",
    "A": "active",
    "R": "retiring",
    "S": "suspended",
    "C": "compromised",
    "D": "destroy_scheduled",
    "X": "destroyed",
    ".": None,
}
CASES = [
    (None if words[0] == "-" else words[0], action, LETTERS[letter])
    for words in (line.split() for line in EXPECTED.strip().splitlines())
    for action, letter in zip(ACTIONS, words[1:], strict=True)
]


@pytest.mark.parametrize(("state", "action", "expected"), CASES)
def test_every_action_in_every_state(
    state: str | None, action: str, expected: str | None
) -> None:
    if expected is not None:
        assert next_state(state, action) == expected
        return
    with pytest.raises(TransitionRefused, match=f"{state or 'not created'} .*{action}"):
        next_state(state, action)


def test_the_cases_cover_every_state_and_every_action() -> None:
    everything = {
        (state, action) for state in (None, *KeyState) for action in KeyAction
    }

    assert {(state, action) for state, action, _ in CASES} == everything


def test_the_table_holds_nothing_that_the_cases_do_not() -> None:
    assert {(s, a): to for s, a, to in CASES if to is not None} == dict(TRANSITIONS)


def test_a_destroyed_key_stays_destroyed() -> None:
    """Whatever is done: no walk through the table leads out of the last state."""
    assert not [action for state, action in TRANSITIONS if state == "destroyed"]


def test_a_compromised_key_is_never_used_again() -> None:
    """It can only be revoked; the window to cancel leads to suspended, not to use."""
    assert [to for (state, _), to in TRANSITIONS.items() if state == "compromised"] == [
        "destroy_scheduled"
    ]


def test_only_active_and_retiring_keys_are_usable() -> None:
    assert {"active", "retiring"} == USABLE


def test_a_refused_transition_is_a_refused_key() -> None:
    """So it becomes the same gRPC status, and callers handle one category."""
    assert issubclass(TransitionRefused, KeyRefusedError)


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(TransitionRefused):
        next_state("active", "polish")
