"""Who is next: nobody waits longer because another owner asks for more."""

from collections import Counter
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.inference_server.engine import Question
from parties.inference_server.errors import QueueFullError
from parties.inference_server.lanes import Lanes, Room
from parties.inference_server.work import Work
from tests.unit.parties.stage import NO_CONTEXT

ONE: Any = object()
OTHER: Any = object()


def work(owner: str, images: int = 1, backbone: Any = ONE) -> Work:
    blocks = np.zeros((images, 1, 1, 1), np.float32)
    weight = np.zeros((1, 1), np.float32)
    return Work(owner, backbone, Question(blocks, weight), NO_CONTEXT, lambda: None)


def filled(*works: Work, room: Room | None = None) -> Lanes:
    lanes = Lanes(room)
    for each in works:
        lanes.add(each)
    return lanes


def owners(lanes: Lanes, room: int) -> list[str]:
    return [piece.work.owner for piece in lanes.take(room)]


def test_owners_take_turns() -> None:
    lanes = filled(*(work("flood") for _ in range(6)), work("calm"), work("calm"))

    assert owners(lanes, 4) == ["flood", "calm", "flood", "calm"]


def test_a_flood_puts_nobody_off_by_more_than_one_batch() -> None:
    """However long it has been going on."""
    lanes = Lanes(Room(requests=1000, requests_each=500))
    for _ in range(200):
        lanes.add(work("flood"))
    for _ in range(10):
        lanes.take(4)
        lanes.add(work("calm"))
        assert "calm" in owners(lanes, 4)


def test_who_was_away_has_saved_up_nothing() -> None:
    lanes = filled(*(work("busy") for _ in range(20)))
    lanes.take(10)
    for _ in range(10):
        lanes.add(work("late"))

    assert Counter(owners(lanes, 10)) == {"busy": 5, "late": 5}


def test_turns_are_counted_in_images() -> None:
    lanes = filled(
        work("large", 8), work("large", 8), *(work("small") for _ in "12345678")
    )

    assert Counter(owners(lanes, 16)) == {"large": 1, "small": 8}


def test_a_large_request_is_computed_in_pieces_and_others_in_between() -> None:
    large = work("large", 10)
    lanes = filled(large, work("small"))
    pieces = [lanes.take(4) for _ in range(3)]

    assert [[each.work.owner for each in batch] for batch in pieces] == [
        ["large"],
        ["small", "large"],
        ["large"],
    ]
    assert [4, 3, 3] == [
        each.images for batch in pieces for each in batch if each.work is large
    ]
    assert not lanes.take(4)


def test_a_batch_is_of_one_model() -> None:
    lanes = filled(work("a"), work("b", backbone=OTHER), work("c"))

    assert owners(lanes, 4) == ["a", "c"]
    assert owners(lanes, 4) == ["b"]


def test_a_full_queue_takes_no_more_and_says_when_to_come_again() -> None:
    lanes = filled(work("a"), work("b"), room=Room(requests=2))
    with pytest.raises(QueueFullError) as caught:
        lanes.add(work("c"))

    assert caught.value.retry_after_s


def test_no_owner_fills_the_queue_alone() -> None:
    lanes = filled(work("a"), work("a"), room=Room(requests=9, requests_each=2))
    with pytest.raises(QueueFullError):
        lanes.add(work("a"))
    lanes.add(work("b"))


def test_the_queue_is_bounded_in_bytes() -> None:
    lanes = filled(work("a", 3), room=Room(bytes=16))
    with pytest.raises(QueueFullError):
        lanes.add(work("b", 2))
    lanes.add(work("b", 1))


def test_what_was_dropped_is_not_taken_and_leaves_its_room() -> None:
    dropped = work("a", 4)
    lanes = filled(dropped, work("b"), room=Room(requests=2))
    lanes.drop(dropped)
    lanes.drop(dropped)
    lanes.add(work("c"))

    assert owners(lanes, 9) == ["b", "c"]
    assert len(lanes) == 0


def test_what_is_ahead_is_ones_own_and_as_much_of_each_other() -> None:
    lanes = filled(work("flood", 50), work("calm", 1))

    assert lanes.ahead("calm", 2) == 3 + 3
    assert lanes.ahead("new", 100) == 100 + 50 + 1


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=30),
    st.integers(1, 12),
)
def test_every_image_is_taken_exactly_once(
    asked: list[tuple[str, int]], room: int
) -> None:
    works = [work(owner, images) for owner, images in asked]
    lanes = filled(*works)
    taken: Counter[int] = Counter()
    for _ in count():
        pieces = lanes.take(room)
        if not pieces:
            break
        assert sum(piece.images for piece in pieces) <= room
        for piece in pieces:
            taken[id(piece.work)] += piece.images

    assert taken == {id(each): each.images for each in works}
    assert len(lanes) == 0
    assert lanes.first() is None
