"""What fuzzing found once is tried again in every run, and a little beside it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import KeymixerError
from tests.fuzz.corpus import kept
from tests.fuzz.targets import TARGETS, Target


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A good input with one stretch of it replaced, doubled or left out."""
    seed = draw(st.sampled_from(seeds))
    start = draw(st.integers(0, len(seed)))
    end = draw(st.integers(start, min(len(seed), start + 16)))
    middle = draw(st.one_of(st.just(b""), st.just(2 * seed[start:end]), st.binary()))
    return seed[:start] + middle + seed[end:]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_decoder_reads_its_seeds(target: Target) -> None:
    """Else fuzzing would begin, and mostly stay, at the first check."""
    for seed in target.seeds:
        target.read(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_before_is_refused_or_read(name: str) -> None:
    for found in kept(name):
        TARGETS[name].try_on(found)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_damaged_input_is_refused_or_read(target: Target) -> None:
    @settings(deadline=None, max_examples=60)
    @given(damaged(target.seeds))
    def holds(data: bytes) -> None:
        target.try_on(data)

    holds()


def test_a_decoder_that_does_what_it_must_not_is_caught() -> None:
    def careless(data: bytes) -> None:
        if data == b"bad":
            raise ValueError("careless")

    with pytest.raises(ValueError, match="careless"):
        Target(careless, ()).try_on(b"bad")


def test_a_typed_refusal_is_no_defect() -> None:
    def careful(_data: bytes) -> None:
        raise KeymixerError

    Target(careful, ()).try_on(b"bad")
