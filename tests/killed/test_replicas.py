"""Replicas of one inference server: any may die at any moment, and nobody notices."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event

import grpc
import numpy as np
import pytest

from orchestrator.audit.reading import record_of
from parties.data_owner.answers import Receipt
from parties.data_owner.client import Client
from parties.data_owner.inference import Use, request_for
from parties.standing import POLL_S
from protos.audit_pb2 import ListEntriesRequest
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.killed.row import (
    LOOK_EVERY_S,
    PATIENCE_S,
    REPLICAS,
    Row,
    open_row,
    status_of,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IMAGES = np.random.default_rng(8).integers(0, 256, (3, 8, 8, 3), np.uint8)
THREADS_EACH = 4
# So many answers come between two deaths, and while a replica is dead.
ANSWERS = 40
# Keys that are made and revoked.
ROUNDS = 5


@pytest.fixture
def row(tmp_path: Path) -> Iterator[Row]:
    with open_row(tmp_path) as row:
        yield row


@dataclass
class Load:
    """Threads that ask without pause, until they are told to stop."""

    client: Client
    use: Use
    expected: np.ndarray
    stop: Event
    answered: list[tuple[Receipt, bool]] = field(default_factory=list)

    def ask_on(self) -> None:
        blocks = self.use.encrypt(IMAGES)
        while not self.stop.is_set():
            answers = self.client.ask(blocks, self.use)
            right = np.allclose(self.expected, answers.logits, atol=1e-4)
            self.answered.append((answers.receipts[0], right))


@pytest.mark.heavy
def test_replicas_killed_in_turn_fail_no_request(row: Row) -> None:
    """Every answer is right, on record, and counted once, however often it was asked.

    A replica comes back with an empty disk every other time.
    """
    for name in ("alder", "birch"):
        row.give_key(name)
    stop = Event()
    loads = [
        Load(row.clients[name], row.clients[name].use(), row.plain(IMAGES), stop)
        for name in ("alder", "birch")
    ]
    with ThreadPoolExecutor(THREADS_EACH * len(loads)) as pool:
        asking = [
            pool.submit(load.ask_on) for load in loads for _ in range(THREADS_EACH)
        ]
        try:
            for death, replica in enumerate([*REPLICAS, REPLICAS[0]]):
                await_answers(loads, asking)
                row.kill(replica)
                await_answers(loads, asking)
                if death % 2 == 0:
                    row.empty_disk(replica)
                row.start(replica)
                row.wait_healthy(replica)
        finally:
            stop.set()
        for each in asking:
            each.result()

    for load in loads:
        assert all(right for _, right in load.answered)
        load.client.redeem([receipt for receipt, _ in load.answered])
    answered = [len(load.answered) for load in loads]
    sent = sum(load.client.sent for load in loads)
    assert sent > sum(answered), "no request met a death: the test shows nothing"
    assert [len(IMAGES) * count for count in answered] == images_used(row)
    assert verified_size(row) > sum(answered)


def await_answers(loads: list[Load], asking: list["Future[None]"]) -> None:
    """Let each owner have some more answers; or raise why there are none."""
    wanted = [len(load.answered) + ANSWERS for load in loads]

    def enough() -> bool:
        for each in asking:
            if each.done():
                each.result()
        return all(
            len(load.answered) >= count
            for load, count in zip(loads, wanted, strict=True)
        )

    wait_until(enough)


def images_used(row: Row) -> list[int]:
    """What counts against alder's and birch's budgets."""
    used = {grant.owner: grant.images_used for grant in row.operator.grants()}
    return [used[row.owner(name)] for name in ("alder", "birch")]


def verified_size(row: Row) -> int:
    """How many records the log holds, all of them verified from the first."""
    command = [sys.executable, "-m", "orchestrator.cli", "audit", "verify", "--json"]
    root = row.workspace.root
    done = subprocess.run(
        [*command, "--run", root], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    assert report["verified"] is True
    return int(report["size"])


def test_every_replica_learns_of_a_key_and_of_its_end(row: Row) -> None:
    """One is away when the model is issued, and comes back with an empty disk."""
    away = REPLICAS[-1]
    row.kill(away)
    row.empty_disk(away)
    row.give_key("alder")
    use = row.clients["alder"].use()
    row.start(away)
    row.wait_healthy(away)

    for replica in REPLICAS:
        assert np.allclose(row.plain(IMAGES), logits(row, replica, use), atol=1e-4)

    row.operator.revoke_key(row.owner("alder"), row.model, "contract ended")
    # From here on it is refused: at the door by what the replica has heard, which is
    # a fifth of a second old, or else by the log, when the answer is to be released.
    for replica in REPLICAS:
        assert refusal(row, replica, use) == "KeyRefused"
        wait_until(partial(refused_at_the_door, row, replica, use))
    assert POLL_S <= 0.2


@pytest.mark.heavy
def test_every_replica_knows_of_a_new_key_version_and_of_its_end_within_a_second(
    row: Row,
) -> None:
    """Medians, as the machine may stand still for longer than what is measured."""
    known, ended = [], []
    with ExitStack() as stack:
        stubs = [stack.enter_context(row.straight_to(r, "alder")) for r in REPLICAS]
        for _ in range(ROUNDS):
            since_s, use = active_since(row, "alder")
            known.append(max(answers_after(each, use, since_s) for each in stubs))
            row.operator.revoke_key(row.owner("alder"), row.model, "contract ended")
            since_s = time.monotonic()
            ended.append(max(bars_after(row, each, use, since_s) for each in stubs))
            wait_until(lambda: all(e.state == "gone" for e in row.operator.issued()))

    assert median(known) < 1.0, known
    assert median(ended) < 1.0, ended


def active_since(row: Row, name: str) -> tuple[float, Use]:
    """Since when the newest key version is active, at the earliest, and its use."""
    client = row.clients[name]
    row.operator.grant(row.owner(name), row.model)
    row.operator.create_key(row.owner(name), row.model)
    while True:
        since_s = time.monotonic()
        if any(version.primary for version in client.sync_keys()):
            return since_s, client.use(fresh=True)
        assert time.monotonic() - since_s < PATIENCE_S
        time.sleep(LOOK_EVERY_S)


def answers_after(stub: GRPCInferenceServiceStub, use: Use, since_s: float) -> float:
    """How long after a moment a replica answers, in seconds."""
    while kind := refused_as(stub, use):
        assert kind in {"KeyRefused", "NotHereYet"}
        assert time.monotonic() - since_s < PATIENCE_S
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - since_s


def refused_as(stub: GRPCInferenceServiceStub, use: Use) -> str:
    """The kind of a refusal; empty: it is answered."""
    try:
        stub.ModelInfer(request_for(use.encrypt(IMAGES), use))
    except grpc.RpcError as error:
        return status_of(error)[1]
    return ""


def bars_after(
    row: Row, stub: GRPCInferenceServiceStub, use: Use, since_s: float
) -> float:
    """How long after a moment a replica refuses before it computes, in seconds."""
    while True:
        request = request_for(use.encrypt(IMAGES), use)
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(request)
        refused_s = time.monotonic() - since_s
        if recorded_as(row, request.id) == ["refused"]:
            return refused_s
        assert refused_s < PATIENCE_S


def test_what_is_live_is_on_every_replica_and_what_is_gone_on_none(row: Row) -> None:
    """Those that are there were given it before it was live: nobody asks them first."""
    row.give_key("alder")
    use = row.clients["alder"].use()

    assert [["alder.cells-1--cells-1"]] * 3 == [kept(row, each) for each in REPLICAS]

    row.operator.revoke_key(row.owner("alder"), row.model, "contract ended")
    wait_until(lambda: [each.state for each in row.operator.issued()] == ["gone"])

    # The request of a client that has not heard has nothing fetched.
    assert ["KeyRefused"] * 3 == [refusal(row, each, use) for each in REPLICAS]
    assert [[]] * 3 == [kept(row, each) for each in REPLICAS]


def kept(row: Row, replica: str) -> list[str]:
    """The issued models on a replica's disk."""
    folder = row.workspace.root / replica / "issued"
    return sorted(path.stem for path in folder.glob("*.safetensors"))


def logits(row: Row, replica: str, use: Use) -> np.ndarray:
    with row.straight_to(replica, "alder") as stub:
        answer = stub.ModelInfer(request_for(use.encrypt(IMAGES), use))
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(len(IMAGES), -1)


def refusal(row: Row, replica: str, use: Use) -> str:
    request = request_for(use.encrypt(IMAGES), use)
    with (
        row.straight_to(replica, "alder") as stub,
        pytest.raises(grpc.RpcError) as caught,
    ):
        stub.ModelInfer(request)
    return status_of(caught.value)[1]


def refused_at_the_door(row: Row, replica: str, use: Use) -> bool:
    """Whether it refuses before it computes: the record says which it was."""
    request = request_for(use.encrypt(IMAGES), use)
    with row.straight_to(replica, "alder") as stub, pytest.raises(grpc.RpcError):
        stub.ModelInfer(request)
    return recorded_as(row, request.id) == ["refused"]


def recorded_as(row: Row, request_id: str) -> list[str]:
    """The kinds of a request's records, once there is one."""
    kinds: list[str] = []

    def told() -> bool:
        wanted = ListEntriesRequest(request_id=request_id)
        found = row.operator.find_entries(wanted)
        kinds.extend(record_of(each)["kind"] for each in found)
        return bool(kinds)

    wait_until(told)
    return kinds
