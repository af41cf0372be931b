"""Few derivations at once: the others wait for a while, and too many are told so."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread

import pytest

from core.errors import Unavailable
from parties.key_holder.derivations import RUNNING, WAITING, Derivations
from parties.key_holder.errors import DerivationsBusyError


@contextmanager
def waiting(derivations: Derivations, entered: Event) -> Iterator[Thread]:
    """Somebody who wants a turn on a thread of its own."""

    def take() -> None:
        with derivations.turn():
            entered.set()

    thread = Thread(target=take)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def test_as_many_run_as_may() -> None:
    derivations = Derivations(running=2, waiting=0)
    with (
        derivations.turn(),
        derivations.turn(),
        pytest.raises(DerivationsBusyError),
        derivations.turn(),
    ):
        pytest.fail("a third one runs")


def test_who_waits_gets_the_next_turn() -> None:
    derivations, entered = Derivations(running=1, waiting=1, wait_s=60), Event()
    with ExitStack() as first:
        first.enter_context(derivations.turn())
        with waiting(derivations, entered):
            assert not entered.is_set()
            first.close()

    assert entered.is_set()


def test_who_waits_too_long_is_told_to_come_again() -> None:
    derivations = Derivations(running=1, waiting=1, wait_s=0.01)
    with (
        derivations.turn(),
        pytest.raises(DerivationsBusyError, match="no turn"),
        derivations.turn(),
    ):
        pytest.fail("a second one runs")


def test_a_turn_that_fails_is_given_back() -> None:
    derivations = Derivations(running=1, waiting=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), derivations.turn():
            raise ZeroDivisionError

    with derivations.turn():
        pass


def test_a_server_keeps_most_of_its_workers_for_short_calls() -> None:
    """It has 16; and whoever asks again later is answered."""
    assert RUNNING + WAITING <= 16 // 2
    assert issubclass(DerivationsBusyError, Unavailable)
