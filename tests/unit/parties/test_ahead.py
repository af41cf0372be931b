"""A stream is read a little ahead, answered in order, and never held in full."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Semaphore

import pytest

from core.rpc.policy import TooManyStreamsError
from parties.inference_server.ahead import Ahead, Window
from parties.inference_server.streams import Berths, StreamEndedError, Streams
from tests.integration.hub import wait_until

WINDOW = Window(requests=4, content_bytes=1000)
LONG_S = 60.0


@dataclass
class Sender:
    """Sends numbers, as many as it is read, and tells how many were."""

    total: int
    read: int = 0
    came: Semaphore = field(default_factory=lambda: Semaphore(0))
    # Where the next request is waited for until it is set, for ever if need be.
    silent_after: int | None = None
    goes_on: Event = field(default_factory=Event)

    def __iter__(self) -> Iterator[int]:
        for number in range(self.total):
            if number == self.silent_after:
                self.goes_on.wait(LONG_S)
            self.read += 1
            self.came.release()
            yield number

    def wait_for(self, requests: int) -> None:
        for _ in range(requests):
            assert self.came.acquire(timeout=LONG_S)


def stream(
    sender: Sender, *, each: int = 1, window: Window = WINDOW
) -> Ahead[int, int]:
    return Ahead(iter(sender), lambda number: number * 10, lambda _number: each, window)


def test_answers_come_in_order_though_a_later_one_is_ready_first() -> None:
    last = Event()

    def answer(number: int) -> int:
        if number == 3:
            last.set()
        assert last.wait(LONG_S)
        return number

    ahead = Ahead(iter(Sender(4)), answer, lambda _number: 1, WINDOW)

    assert list(range(4)) == list(ahead.answers())


def test_no_more_is_read_than_there_is_room_for() -> None:
    sender = Sender(200)
    held = [sender.read - taken for taken, _ in enumerate(stream(sender).answers())]

    assert len(held) == 200
    assert max(held) <= WINDOW.requests


def test_nothing_is_read_while_no_answer_is_taken() -> None:
    """All four are answered, nobody takes a second answer, and a fifth has no room."""
    sender, done = Sender(200), Semaphore(0)

    def answer(number: int) -> int:
        done.release()
        return number

    answers = Ahead(iter(sender), answer, lambda _number: 1, WINDOW).answers()
    next(answers)
    for _ in range(WINDOW.requests):
        assert done.acquire(timeout=LONG_S)

    assert sender.read == WINDOW.requests
    assert list(answers) == list(range(1, 200))


def test_large_requests_are_read_one_at_a_time() -> None:
    sender = Sender(50)
    answers = stream(sender, each=1000).answers()

    assert {sender.read - taken for taken, _ in enumerate(answers)} == {1}


def test_what_was_read_before_the_stop_is_answered_and_nothing_after() -> None:
    """The third one is on its way when the stream is stopped: it is not begun."""
    sender, answered = Sender(9, silent_after=2), []

    def answer(number: int) -> int:
        answered.append(number)
        return number

    ahead = Ahead(iter(sender), answer, lambda _number: 1, WINDOW)
    answers = ahead.answers()
    found = [next(answers)]
    sender.wait_for(2)
    wait_until(lambda: len(answered) == 2)
    ahead.stop()
    sender.goes_on.set()
    wait_until(lambda: ahead._read)
    found += list(answers)

    assert [0, 1] == found == answered
    assert sender.read == 3


def test_to_leave_a_stream_waits_for_what_is_in_work() -> None:
    """Else a caller that opens and leaves in a loop would make the server hold all."""
    begun, go_on, ended = Semaphore(0), Event(), []

    def answer(number: int) -> int:
        begun.release()
        assert number == 0 or go_on.wait(LONG_S)
        ended.append(number)
        return number

    answers = Ahead(iter(Sender(9)), answer, lambda _number: 1, WINDOW).answers()
    next(answers)
    for _ in range(WINDOW.requests):
        assert begun.acquire(timeout=LONG_S)
    with ThreadPoolExecutor() as pool:
        leaving = pool.submit(answers.close)  # type: ignore[attr-defined]
        go_on.set()
        leaving.result(LONG_S)

    assert set(ended) >= {0, 1, 2, 3}


def test_a_sender_that_is_gone_is_told_after_the_answers_to_what_it_sent() -> None:
    def requests() -> Iterator[int]:
        yield 0
        yield 1
        raise ConnectionError

    answers = Ahead(requests(), lambda number: number, lambda _number: 1, WINDOW)
    found: list[int] = []
    with pytest.raises(ConnectionError):
        found.extend(answers.answers())

    assert found == [0, 1]


def entered(streams: Streams, owner: str) -> Iterator[int]:
    """A stream of an owner's that is open, as its first answer was taken."""
    answers = streams.answers(
        owner, iter(Sender(3)), lambda number: number, lambda _number: 1
    )
    next(answers)
    return answers


def test_one_owner_has_only_some_of_the_streams() -> None:
    streams = Streams(Berths(total=3, each=2), WINDOW)
    first, _second = entered(streams, "alder"), entered(streams, "alder")
    with pytest.raises(TooManyStreamsError) as caught:
        entered(streams, "alder")
    _third = entered(streams, "birch")
    with pytest.raises(TooManyStreamsError, match="as many as may be"):
        entered(streams, "rowan")
    list(first)

    assert next(entered(streams, "alder")) == 1
    assert caught.value.retry_after_s


def test_a_server_that_stops_ends_its_streams_and_takes_no_new_one() -> None:
    streams = Streams(Berths(total=3), WINDOW)
    sender = Sender(9, silent_after=1)
    with streams.open():
        answers = streams.answers(
            "alder", iter(sender), lambda number: number, lambda _number: 1
        )
        assert next(answers) == 0
    with pytest.raises(StreamEndedError):
        list(answers)
    sender.goes_on.set()
    with pytest.raises(StreamEndedError):
        entered(streams, "alder")

    assert streams.count() == 0
