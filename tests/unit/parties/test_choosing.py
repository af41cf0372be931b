"""Whom the next request asks: of a share, neither more nor less, however it falls."""

from typing import cast

import pytest

from parties.data_owner.choosing import Choice, Uses
from parties.data_owner.inference import Use

CHAMPION, CANDIDATE = (cast("Use", name) for name in ("champion", "candidate"))


@pytest.mark.parametrize(
    ("share", "of_a_thousand"), [(0.0, 0), (0.1, 100), (1 / 3, 333), (1.0, 1000)]
)
def test_the_candidate_has_its_share(share: float, of_a_thousand: int) -> None:
    choice = Choice(share)
    asked = [choice.of(Uses(CHAMPION, CANDIDATE)) for _ in range(1000)]

    assert abs(of_a_thousand - asked.count(CANDIDATE)) <= 1


def test_without_a_candidate_nothing_is_saved_up_for_one() -> None:
    choice = Choice(0.5)
    for _ in range(10):
        choice.of(Uses(CHAMPION))

    assert choice.of(Uses(CHAMPION, CANDIDATE)) == CHAMPION
