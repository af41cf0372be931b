"""The load generator: what it counts, and what it does not let pass."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from core.errors import InvalidInput, PeerUnavailable
from orchestrator.bench.connections import Target, Tls, connect
from orchestrator.bench.forms import FORMS
from orchestrator.bench.load import Figures, Load, Way, measure
from orchestrator.bench.questions import (
    Answered,
    Question,
    read_questions,
    write_questions,
)
from orchestrator.bench.statistics import percentile, spread
from protos.open_inference_pb2 import ModelInferRequest

Answer = Callable[[bytes], tuple[int, bytes]]


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[Target]:
    """A server that answers by a function of the request's body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status, body = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Target(
            transport="http", port=server.server_port, path="/ask", form="float32"
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def negated(body: bytes) -> tuple[int, bytes]:
    return 200, (-np.frombuffer(body, "<f4")).tobytes()


def echoed(body: bytes) -> tuple[int, bytes]:
    return 200, body


def answered() -> Answered:
    images = np.random.default_rng(1).normal(size=(9, 1, 2, 2)).astype(np.float32)
    return Answered(
        np.zeros((9, 2, 2, 1), np.uint8),
        images,
        tuple(images.reshape(9, 4).argmax(1).tolist()),
    )


def loaded(target: Target, folder: Path, images: int = 2) -> Figures:
    """Half a second of two callers; more, until there is anything to count."""
    path = folder / "questions"
    write_questions(path, answered().questions(target.form, images))
    load = Load(
        ways=(Way(target=target, questions=str(path)),),
        callers=2,
        seconds=0.5,
        warm_s=0.1,
    )
    assert load == Load.from_json(load.to_json())
    for _ in range(20):
        figures = asyncio.run(measure(load))
        if figures.images or figures.errors:
            break
    return figures


def test_whom_a_target_expects_survives_its_journey() -> None:
    tls = Tls(ca="ca", certificate="one", key="its", server="who")
    target = Target(transport="grpc", port=1, path="/", form="float32", tls=tls)

    assert target == Target.from_dict(asdict(target))


def test_right_answers_are_counted_image_by_image(tmp_path: Path) -> None:
    with serving(echoed) as target:
        figures = loaded(target, tmp_path)

    assert figures.images > 0
    assert figures.images % 2 == 0
    assert figures.images_per_s == figures.images / 0.5
    assert (0, 0) == (figures.wrong, figures.errors)
    assert 0 < figures.p50_ms <= figures.p99_ms


def test_answers_of_another_class_are_wrong(tmp_path: Path) -> None:
    with serving(negated) as target:
        figures = loaded(target, tmp_path)

    assert figures.wrong == figures.images > 0


def test_answers_that_are_none_are_wrong(tmp_path: Path) -> None:
    with serving(lambda _: (200, b"???")) as target:
        figures = loaded(target, tmp_path)

    assert figures.wrong == figures.images > 0


def test_refusals_are_errors_and_the_first_is_told(tmp_path: Path) -> None:
    with serving(lambda _: (503, b"not today")) as target:
        figures = loaded(target, tmp_path)

    assert figures.images == 0
    assert figures.errors > 0
    assert "503" in figures.told
    assert "not today" in figures.told


def test_who_does_not_listen_is_unavailable() -> None:
    with serving(echoed) as target:
        pass

    with pytest.raises(PeerUnavailable, match=str(target.port)):
        asyncio.run(connect(target))


def test_who_was_told_to_stop_leaves_a_connection_that_ends_quietly() -> None:
    going_on = threading.Event()

    def late(body: bytes) -> tuple[int, bytes]:
        going_on.wait(10)
        return 200, body

    troubles: list[object] = []

    async def ask_and_stop(target: Target) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, trouble: troubles.append(trouble))
        connection = await connect(target)
        asking = asyncio.create_task(connection.ask(bytes(4)))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await connection.close()
        await asyncio.sleep(0.05)

    with serving(late) as target:
        asyncio.run(ask_and_stop(target))
        going_on.set()
    assert troubles == []


def test_questions_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [Question(b"\n\x00", (1,)), Question(b"", (2, 3))]
    write_questions(tmp_path / "questions", written)

    assert written == read_questions(tmp_path / "questions")


def test_a_last_smaller_request_is_left_out() -> None:
    found = answered().questions("float32", 4)

    assert [4, 4] == [len(question.classes) for question in found]
    assert answered().images[4:8].tobytes() == found[1].body


def test_json_answers_are_read() -> None:
    assert [[1, 2], [3, 4]] == FORMS["float32-json"].read(b"[1,2,3,4]", 2).tolist()


@pytest.mark.parametrize(
    ("part", "expected"), [(0.5, 2), (0.99, 4), (0.25, 1), (0.26, 2)]
)
def test_a_percentile_is_a_number_that_was_measured(part: float, expected: int) -> None:
    assert expected == percentile([1, 2, 3, 4], part)


def test_a_spread_is_of_all_measurements() -> None:
    found = spread([3, 1, 2, 2])

    assert (2, 1, 3, 1) == (found.median, found.least, found.most, found.relative)
    with pytest.raises(InvalidInput):
        spread([])


def test_each_time_our_own_request_is_another_question_about_the_same() -> None:
    written = FORMS["keymixer"].write(np.zeros((1, 3, 2, 2), np.float32))
    asked = [
        ModelInferRequest.FromString(FORMS["keymixer"].anew(written)) for _ in "ab"
    ]
    names = {each.parameters.pop("question_id").string_param for each in asked}

    assert 2 == len(names)
    assert [ModelInferRequest.FromString(written)] * 2 == asked
