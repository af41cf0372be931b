"""Many callers, one batch: each has its own answer, or its own error, and soon."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from core.errors import KeyRefusedError
from parties.inference_server.batcher import Batcher
from parties.inference_server.engine import NO_FACTS, Logits, Question
from parties.inference_server.errors import (
    DeadlineTooShortError,
    QueueFullError,
    WaitedTooLongError,
)
from parties.inference_server.lanes import Room
from parties.inference_server.work import Work

LONG_S = 20.0


@dataclass
class Caller:
    there: bool = True
    left_s: float | None = None

    def is_active(self) -> bool:
        return self.there

    def time_remaining(self) -> float | None:
        return self.left_s


@dataclass
class Backbone:
    """Answers with the sum of each image's numbers times its owner's weight."""

    batches: list[int] = field(default_factory=list)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    # Each batch takes one; a test that holds none gives many.
    go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    facts = NO_FACTS

    def answer(self, questions: Sequence[Question]) -> list[Logits]:
        self.batches.append(sum(len(each.blocks) for each in questions))
        self.begun.release()
        assert self.go_on.acquire(timeout=LONG_S)
        if any(np.isnan(each.blocks).any() for each in questions):
            raise RuntimeError("a question breaks its batch")
        return [each.blocks.sum((1, 2)) * each.weight[0] for each in questions]


class Overtaking(Backbone):
    """Keeps the first batch until all that came after it were answered."""

    def __init__(self) -> None:
        super().__init__()
        self._others = threading.Event()

    def answer(self, questions: Sequence[Question]) -> list[Logits]:
        self.go_on.release()
        first = not self.batches
        answers = super().answer(questions)
        if first:
            assert self._others.wait(LONG_S)
        if 7.0 in np.concatenate([each.blocks.ravel() for each in questions]):
            self._others.set()
        return answers


def work(
    backbone: Backbone,
    owner: str = "a",
    values: Sequence[float] = (1.0,),
    caller: Caller | None = None,
    check: Callable[[], None] = lambda: None,
) -> Work:
    blocks = np.array(values, np.float32).reshape(-1, 1, 1, 1)
    weight = np.full((1, 1), ord(owner[0]), np.float32)
    return Work(owner, backbone, Question(blocks, weight), caller or Caller(), check)


@dataclass
class Crowd:
    """Callers on threads of their own; the first one is being computed."""

    batcher: Batcher
    backbone: Backbone
    pool: ThreadPoolExecutor

    def ask(self, each: Work) -> "Future[Logits]":
        before = self.batcher.waiting()
        asked = self.pool.submit(self.batcher.compute, each)
        while self.batcher.waiting() == before and not asked.done():
            threading.Event().wait(0.001)
        return asked

    def begin(self) -> "Future[Logits]":
        first = self.pool.submit(self.batcher.compute, work(self.backbone, "first"))
        assert self.backbone.begun.acquire(timeout=LONG_S)
        return first


@pytest.fixture
def crowd() -> Any:
    backbone = Backbone()
    with ThreadPoolExecutor(100) as pool:
        yield Crowd(Batcher(Room(requests=90, requests_each=80)), backbone, pool)
        backbone.go_on.release(1000)


def test_a_lone_request_is_computed_at_once() -> None:
    backbone = Backbone()
    backbone.go_on.release()
    asked = work(backbone, values=(1.0, 2.0))

    assert Batcher().compute(asked).ravel().tolist() == [97.0, 194.0]
    assert (asked.batch, backbone.batches) == (2, [2])


def test_those_who_waited_share_a_batch_and_each_has_its_own_answer(
    crowd: Crowd,
) -> None:
    crowd.begin()
    names = "bcdefgh"
    asked = [crowd.ask(work(crowd.backbone, name, (2.0,))) for name in names]
    crowd.backbone.go_on.release(2)

    answers = [each.result(LONG_S).item() for each in asked]
    assert answers == [2.0 * ord(name) for name in names]
    assert crowd.backbone.batches == [1, len(names)]


def test_a_large_request_comes_back_whole_and_in_order(crowd: Crowd) -> None:
    values = [float(number) for number in range(100)]
    crowd.backbone.go_on.release(100)
    answer = crowd.batcher.compute(work(crowd.backbone, "a", values))

    assert answer.ravel().tolist() == [97.0 * each for each in values]
    assert crowd.backbone.batches == [32, 32, 32, 4]


def test_a_flood_of_64_callers_puts_another_off_by_one_batch(crowd: Crowd) -> None:
    crowd.begin()
    for _ in range(64):
        crowd.ask(work(crowd.backbone, "flood"))
    calm = crowd.ask(work(crowd.backbone, "calm"))
    crowd.backbone.go_on.release(2)

    assert calm.result(LONG_S).item() == ord("c")
    assert crowd.backbone.batches[:2] == [1, 32]


def test_one_bad_question_fails_alone(crowd: Crowd) -> None:
    crowd.begin()
    good = crowd.ask(work(crowd.backbone, "b"))
    bad = crowd.ask(work(crowd.backbone, "c", (np.nan,)))
    crowd.backbone.go_on.release(4)

    assert good.result(LONG_S).item() == ord("b")
    with pytest.raises(RuntimeError):
        bad.result(LONG_S)


def test_what_may_not_be_computed_any_more_is_not(crowd: Crowd) -> None:
    def refused() -> None:
        raise KeyRefusedError("revoked meanwhile")

    crowd.begin()
    good = crowd.ask(work(crowd.backbone, "b"))
    revoked = crowd.ask(work(crowd.backbone, "c", check=refused))
    crowd.backbone.go_on.release(2)

    with pytest.raises(KeyRefusedError):
        revoked.result(LONG_S)
    assert good.result(LONG_S).item() == ord("b")
    assert crowd.backbone.batches == [1, 1]


def test_nothing_is_computed_for_whoever_left(crowd: Crowd) -> None:
    first = crowd.begin()
    caller = Caller()
    left = crowd.ask(work(crowd.backbone, "b", caller=caller))
    caller.there = False
    crowd.backbone.go_on.release()
    first.result(LONG_S)

    with pytest.raises(WaitedTooLongError):
        left.result(LONG_S)
    assert crowd.backbone.batches == [1]


def test_a_deadline_ends_the_wait_and_frees_the_place(crowd: Crowd) -> None:
    crowd.begin()
    with pytest.raises(WaitedTooLongError):
        crowd.batcher.compute(work(crowd.backbone, "b", caller=Caller(left_s=0.01)))

    assert crowd.batcher.waiting() == 0


def test_whoever_gives_up_while_leading_lets_the_next_one_lead(crowd: Crowd) -> None:
    """The turn is theirs at the moment in which they stop waiting."""
    first = crowd.begin()
    hasty = work(crowd.backbone, "b", caller=Caller(left_s=0.0))
    hasty_asked = crowd.pool.submit(crowd.batcher.compute, hasty)
    patient = crowd.ask(work(crowd.backbone, "c"))
    crowd.backbone.go_on.release(3)

    first.result(LONG_S)
    with pytest.raises(WaitedTooLongError):
        hasty_asked.result(LONG_S)
    assert patient.result(LONG_S).item() == ord("c")


def test_a_deadline_beyond_any_clock_is_waited_for(crowd: Crowd) -> None:
    """What grpc.aio sends for a call without one."""
    crowd.begin()
    asked = crowd.ask(work(crowd.backbone, "b", caller=Caller(left_s=9e18)))
    crowd.backbone.go_on.release(2)

    assert asked.result(LONG_S).item() == ord("b")


class Clock:
    """Every look at it is one second later."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def test_what_cannot_make_its_deadline_is_refused_before_it_is_computed() -> None:
    backbone = Backbone()
    backbone.go_on.release(10)
    batcher = Batcher(clock=Clock())
    batcher.compute(work(backbone))
    hasty = Caller(left_s=2.5)
    with pytest.raises(DeadlineTooShortError) as caught:
        batcher.compute(work(backbone, values=(1.0, 2.0, 3.0), caller=hasty))

    assert caught.value.retry_after_s == pytest.approx(0.5)
    assert backbone.batches == [1]
    batcher.compute(work(backbone, values=(1.0, 2.0), caller=hasty))


def test_a_full_queue_refuses_and_serves_on(crowd: Crowd) -> None:
    crowd.begin()
    waiting = [crowd.ask(work(crowd.backbone, "b")) for _ in range(80)]
    with pytest.raises(QueueFullError):
        crowd.batcher.compute(work(crowd.backbone, "b"))
    crowd.backbone.go_on.release(10)

    assert {each.result(LONG_S).item() for each in waiting} == {ord("b")}


def test_every_request_of_many_threads_is_answered_once() -> None:
    backbone = Backbone()
    backbone.go_on.release(10_000)
    batcher = Batcher(Room(requests=1000, requests_each=1000))

    def ask(number: int) -> bool:
        values = [float(number + i) for i in range(number % 7 + 1)]
        owner = "abcde"[number % 5]
        answer = batcher.compute(work(backbone, owner, values))
        return answer.ravel().tolist() == [ord(owner) * each for each in values]

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(ask, range(600)))
    assert sum(backbone.batches) == sum(number % 7 + 1 for number in range(600))
    assert batcher.waiting() == 0


def two_at_once() -> Crowd:
    room = Room(requests=90, requests_each=80)
    return Crowd(Batcher(room, at_once=2), Backbone(), ThreadPoolExecutor(100))


@pytest.fixture
def pair() -> Any:
    crowd = two_at_once()
    with crowd.pool:
        yield crowd
        crowd.backbone.go_on.release(1000)


def test_two_batches_are_computed_at_the_same_time_and_no_third(pair: Crowd) -> None:
    pair.begin()
    pair.begin()
    third = pair.ask(work(pair.backbone, "c"))

    assert pair.batcher.waiting() == 1
    pair.backbone.go_on.release(3)
    assert third.result(LONG_S).item() == ord("c")


def test_what_waits_is_shared_out_among_those_who_compute(pair: Crowd) -> None:
    pair.begin()
    pair.begin()
    waiting = [pair.ask(work(pair.backbone, "abcde"[n % 5])) for n in range(40)]
    pair.backbone.go_on.release(2)
    for _ in range(2):
        assert pair.backbone.begun.acquire(timeout=LONG_S)

    # Half of all each; what comes first takes half of what is there.
    assert pair.backbone.batches == [1, 1, 20, 10]
    pair.backbone.go_on.release(100)
    assert all(each.result(LONG_S).size == 1 for each in waiting)


def test_a_large_request_is_whole_and_in_order_though_its_end_is_ready_first() -> None:
    backbone = Overtaking()
    batcher = Batcher(at_once=2, largest=4)
    values = [float(number) for number in range(8)]
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(batcher.compute, work(backbone, "a", values))
        assert backbone.begun.acquire(timeout=LONG_S)
        other = pool.submit(batcher.compute, work(backbone, "a", [9.0]))

        assert large.result(LONG_S).ravel().tolist() == [97.0 * v for v in values]
        assert other.result(LONG_S).item() == 97.0 * 9


def test_with_several_at_once_every_request_is_answered_once() -> None:
    backbone = Backbone()
    backbone.go_on.release(10_000)
    batcher = Batcher(Room(requests=1000, requests_each=1000), at_once=3)

    def ask(number: int) -> bool:
        values = [float(number + i) for i in range(number % 7 + 1)]
        owner = "abcde"[number % 5]
        answer = batcher.compute(work(backbone, owner, values))
        return answer.ravel().tolist() == [ord(owner) * each for each in values]

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(ask, range(600)))
    assert sum(backbone.batches) == sum(number % 7 + 1 for number in range(600))
    assert batcher.waiting() == 0


def test_who_gives_up_while_told_to_compute_lets_the_next_one(pair: Crowd) -> None:
    pair.begin()
    pair.begin()
    gone = pair.ask(work(pair.backbone, "b", caller=Caller(left_s=0.05)))
    with pytest.raises(WaitedTooLongError):
        gone.result(LONG_S)
    left = pair.ask(work(pair.backbone, "c"))
    pair.backbone.go_on.release(10)

    assert left.result(LONG_S).item() == ord("c")


def test_what_comes_afterwards_is_done_before_its_caller_wakes() -> None:
    backbone = Backbone()
    backbone.go_on.release()
    asked, seen = work(backbone), []

    def afterwards(done: Work) -> None:
        seen.append((done.result().ravel().tolist(), done.ended))
        done.end()

    asked.afterwards = afterwards

    assert Batcher().compute(asked).ravel().tolist() == [97.0]
    assert seen == [([97.0], False)]


def test_what_goes_wrong_afterwards_is_the_callers_alone(crowd: Crowd) -> None:
    first = crowd.begin()
    broken, other = work(crowd.backbone, "b"), work(crowd.backbone, "c")

    def afterwards(_done: Work) -> None:
        raise RuntimeError("not handed in")

    broken.afterwards = afterwards
    asked = [crowd.ask(broken), crowd.ask(other)]
    crowd.backbone.go_on.release(2)

    with pytest.raises(RuntimeError, match="not handed in"):
        asked[0].result(LONG_S)
    assert asked[1].result(LONG_S).ravel().tolist() == [99.0]
    first.result(LONG_S)


def test_what_comes_afterwards_is_not_waited_for_beyond_the_deadline() -> None:
    backbone = Backbone()
    backbone.go_on.release()
    asked = work(backbone, caller=Caller(left_s=0.05))
    # The verdict never comes: nobody ends the work.
    asked.afterwards = lambda _done: None

    assert Batcher().compute(asked).ravel().tolist() == [97.0]
    assert not asked.ended


def test_what_its_caller_gave_up_is_not_gone_on_with(crowd: Crowd) -> None:
    slow = work(crowd.backbone, "b", caller=Caller(left_s=0.05))
    finished: list[Work] = []
    slow.afterwards = finished.append
    first = crowd.begin()
    with pytest.raises(WaitedTooLongError):
        crowd.batcher.compute(slow)
    crowd.backbone.go_on.release(2)

    first.result(LONG_S)
    assert finished == []


def test_the_next_batch_begins_before_the_last_one_is_gone_on_with() -> None:
    backbone = Backbone()
    batcher = Batcher()
    begun_next = threading.Event()
    asked = work(backbone, "a")

    def afterwards(done: Work) -> None:
        assert backbone.begun.acquire(timeout=LONG_S)
        begun_next.set()
        done.end()

    asked.afterwards = afterwards
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batcher.compute, asked)
        assert backbone.begun.acquire(timeout=LONG_S)
        other = pool.submit(batcher.compute, work(backbone, "b"))
        while not batcher.waiting():
            threading.Event().wait(0.001)
        backbone.go_on.release(2)
        first.result(LONG_S)
        other.result(LONG_S)

    assert begun_next.is_set()
