"""An owner's rate: exact, by a clock that the test moves."""

from dataclasses import dataclass

import pytest

from core.errors import TooLargeError
from parties.inference_server.errors import TooFastError
from parties.inference_server.rates import Limit, Rates


@dataclass
class Seconds:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def rates(clock: Seconds, **limit: float) -> Rates:
    return Rates(Limit(**limit), clock=clock)  # type: ignore[arg-type]


def test_without_a_limit_anything_goes() -> None:
    Rates().spend("a", 1_000_000)


def test_a_burst_goes_through_and_then_the_rate_holds() -> None:
    clock = Seconds()
    limited = rates(clock, images_per_s=2.0, burst=10)
    limited.spend("a", 10)
    with pytest.raises(TooFastError) as caught:
        limited.spend("a", 3)
    assert caught.value.retry_after_s == pytest.approx(1.5)

    clock.now_s += 1.5
    limited.spend("a", 3)


def test_what_was_refused_was_not_counted() -> None:
    clock = Seconds()
    limited = rates(clock, images_per_s=1.0, burst=2)
    for _ in range(3):
        with pytest.raises(TooLargeError):
            limited.spend("a", 3)
    limited.spend("a", 2)


def test_nobody_saves_up_more_than_a_burst() -> None:
    clock = Seconds()
    limited = rates(clock, images_per_s=1.0, burst=2)
    limited.spend("a", 2)
    clock.now_s += 1000
    limited.spend("a", 2)
    with pytest.raises(TooFastError):
        limited.spend("a", 1)


def test_each_owner_has_a_rate_of_its_own() -> None:
    clock = Seconds()
    limited = rates(clock, images_per_s=1.0)
    limited.spend("a", 1)
    limited.spend("b", 1)
    with pytest.raises(TooFastError):
        limited.spend("a", 1)


def test_a_named_owner_has_its_own_limit() -> None:
    limited = Rates(Limit(max_images=1), {"a": Limit(max_images=3)})
    limited.spend("a", 3)
    with pytest.raises(TooLargeError):
        limited.spend("b", 2)
