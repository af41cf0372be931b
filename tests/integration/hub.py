"""A real registry and log behind mTLS, and an inference server with a slow engine.

No workflow runs: a test moves the keys by hand, and says when a computation ends and
when time passes for what the server has heard: no stall makes that old.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from core.architecture import Architecture
from core.keys import derive_key
from core.rpc.channel import wait_ready
from core.rpc.identity import SpiffeId
from core.rpc.server import serve
from core.statements import ISSUE, IssueStatement, sign
from core.transform import embedding_digest, transform_embedding
from core.wire import dump_tensors
from orchestrator.audit.events import RefusalRecorder
from orchestrator.audit.service import AuditService
from orchestrator.policy import POLICY
from orchestrator.registry import store
from orchestrator.registry.models import IssuedModel, ModelVersion
from orchestrator.registry.service import RegistryService
from parties.inference_server import __main__ as inference_server
from parties.inference_server.engine import NO_FACTS, Logits, Question
from parties.inference_server.lanes import Lanes
from parties.inference_server.store import ModelName, ModelStore
from parties.inference_server.work import Work
from protos import audit_pb2 as audit
from protos import audit_pb2_grpc, registry_pb2_grpc
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as rpc
from protos import registry_pb2 as registry
from tests.integration.cast import INFERENCE_SERVICE, Cast
from tests.unit.orchestrator.ledger import (
    CLOUD_ID,
    HUB_ID,
    MODEL,
    OWNERS,
    VAULT_ID,
    Ledger,
    key_id,
    open_ledger,
)
from tests.unit.parties.stage import TINY, Release, public

PEN = Ed25519PrivateKey.from_private_bytes(b"v" * 32)
LONG_S = 60.0
A_DAY_S = 24 * 3600.0


class SlowEngine:
    """Answers zeros, one computation for each that a test lets go on."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.asked = 0

    def load(
        self, architecture: Architecture, tensors: Mapping[str, np.ndarray]
    ) -> "SlowEngine":
        return self

    @property
    def facts(self) -> Mapping[str, str]:
        return NO_FACTS

    def answer(self, questions: Sequence[Question]) -> list[Logits]:
        self.asked += 1
        self.begun.release()
        assert self.go_on.acquire(timeout=LONG_S)
        return [np.zeros((len(each.blocks), 10), np.float32) for each in questions]

    def wait_begun(self) -> None:
        assert self.begun.acquire(timeout=LONG_S)

    def let_go_on(self, computations: int) -> None:
        for _ in range(computations):
            self.go_on.release()


@dataclass
class FakeSeconds:
    """A monotonic clock that a test moves."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


class CountedLanes(Lanes):
    """Tells of each request that is past the door, and waits for its turn."""

    def __init__(self) -> None:
        super().__init__()
        self._came = threading.Semaphore(0)

    def add(self, work: Work) -> None:
        super().add(work)
        self._came.release()

    def wait_for(self, requests: int) -> None:
        for _ in range(requests):
            assert self._came.acquire(timeout=LONG_S)


@dataclass
class Hub:
    """An orchestrator's registry and log, some of whose answers do not arrive.

    While `silent` is set, nobody hears who stands how. For each word in `lose` one
    verdict is recorded and then lost on its way: `at once`, as when a connection
    breaks, or `in silence`.
    """

    cast: Cast
    ledger: Ledger
    engine: SlowEngine = field(default_factory=SlowEngine)
    silent: threading.Event = field(default_factory=threading.Event)
    lose: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    turns: CountedLanes = field(default_factory=CountedLanes)
    clock: FakeSeconds = field(default_factory=FakeSeconds)
    # How often it was asked who stands how.
    looks: int = 0

    @contextmanager
    def serving(self, address: str = "127.0.0.1:0") -> Iterator[None]:
        """The orchestrator, until the block ends."""
        records = self.ledger.registry

        def register(server: grpc.Server) -> None:
            registry_pb2_grpc.add_RegistryServiceServicer_to_server(
                _Registry(self), server
            )
            audit_pb2_grpc.add_AuditServiceServicer_to_server(_Audit(self), server)

        with serve(
            self.cast.identity(HUB_ID),
            POLICY,
            register,
            [],
            address,
            on_refusal=RefusalRecorder(records),
            admit=records.admit,
        ) as server:
            server.set_serving(True)
            self.cast.addresses[HUB_ID] = server.address
            try:
                yield
            finally:
                self.ended.set()
                self.silent.clear()
        self.ended.clear()

    @contextmanager
    def inference_server(
        self, clock: Callable[[], float] | None = None, **settings: Any
    ) -> Iterator[None]:
        """The inference server, healthy; `settings` are added to its own.

        What it has heard grows old by the hub's clock, if no other one is given.
        """
        folder = self.cast.settle(CLOUD_ID, HUB_ID)
        path = folder / "settings.json"
        # The engine that a test holds up holds up one batch.
        settings = {"batches_at_once": 1, **settings}
        path.write_text(json.dumps(json.loads(path.read_bytes()) | settings))
        self.stock(folder)
        with (
            _patched(
                "parties.inference_server.batcher.Lanes", lambda _room: self.turns
            ),
            inference_server.running(folder, self.engine, clock or self.clock),
        ):
            self.cast.addresses[CLOUD_ID] = (folder / "address").read_text()
            self.wait_healthy()
            try:
                yield
            finally:
                self.engine.let_go_on(100)

    def wait_healthy(self) -> None:
        identity = self.cast.identity(HUB_ID)
        address = self.cast.addresses[CLOUD_ID]
        wait_ready(address, identity, CLOUD_ID, INFERENCE_SERVICE, LONG_S)

    def cut_off(self) -> None:
        """From now on the server hears nothing, and what it has heard is too old."""
        self.silent.set()
        self.clock.now_s += A_DAY_S

    def wait_heard(self) -> None:
        """Return when the server knows how things stand now: it has asked twice.

        It asks one question at a time, so the first one is answered by the second.
        """
        enough = self.looks + 2
        wait_until(lambda: self.looks >= enough)

    def stock(self, folder: Path) -> None:
        """Put the backbone and what was issued for every owner on the server's disk."""
        models, release = ModelStore(folder), self.cast.release
        models.save_backbone(ModelName(MODEL, 1), release.manifest, release.backbone)
        for owner in OWNERS:
            said, weight = issued(release, owner)
            statement = said.to_bytes()
            signature = sign(PEN, ISSUE, statement)
            content = dump_tensors({"weight": weight})
            models.save_issue(statement, signature, content, str(VAULT_ID))

    @contextmanager
    def asking(self, owner: SpiffeId) -> Iterator[rpc.GRPCInferenceServiceStub]:
        """One connection of an owner's to the inference server."""
        with self.cast.channel(owner, CLOUD_ID) as channel:
            yield rpc.GRPCInferenceServiceStub(channel)


@contextmanager
def _patched(name: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(name, value)
        yield


@contextmanager
def open_hub(folder: Path, url: str = "") -> Iterator[Hub]:
    """A hub that does not serve yet, with an active key of every owner.

    Its database is at `url`; without one it is a file in `folder`.
    """
    cast, books = Cast(folder), folder / "ledger"
    books.mkdir()
    with open_ledger(books, url) as ledger:
        with ledger.change(VAULT_ID) as change:
            store.register_public_keys(change, public(PEN), b"")
        for owner in OWNERS:
            ledger.active(owner)
        _agree(ledger, cast.release)
        yield Hub(cast, ledger)


def _agree(ledger: Ledger, release: Release) -> None:
    """Have the registry list what lies on the inference server's disk."""
    with ledger.change() as change:
        version = change.session.scalars(select(ModelVersion)).one()
        version.manifest = release.manifest.to_bytes()
        for row in change.session.scalars(select(IssuedModel)).all():
            owner = SpiffeId.parse(row.key_version.key.owner.spiffe_id)
            row.digest = bytes.fromhex(issued(release, owner)[0].digest)


def issued(release: Release, owner: SpiffeId) -> tuple[IssueStatement, np.ndarray]:
    """What the key holder made for the first version of an owner's key."""
    seed = owner.organisation.encode().ljust(32)
    key = derive_key(seed, key_id=key_id(owner), version=1, patch_size=4, channels=3)
    weight = transform_embedding(release.weight, key)
    said = IssueStatement(
        key_id=key_id(owner),
        key_version=1,
        owner=str(owner),
        model=MODEL,
        model_version=1,
        digest=embedding_digest(weight).hex(),
        patch_size=TINY.patch_size,
        channels=TINY.channels,
        hidden=TINY.hidden,
    )
    return said, weight


def question(owner: SpiffeId, version: int = 1) -> pb.ModelInferRequest:
    """One picture, as blocks of nothing."""
    blocks = np.zeros((1, TINY.rows, TINY.columns, TINY.dimension), "<f4")
    request = pb.ModelInferRequest(
        model_name=MODEL, raw_input_contents=[blocks.tobytes()]
    )
    request.inputs.add(name="encrypted_blocks", datatype="FP32", shape=blocks.shape)
    request.parameters["key_id"].string_param = key_id(owner)
    request.parameters["key_version"].int64_param = version
    return request


def wait_until(what: Callable[[], object]) -> None:
    until = time.monotonic() + LONG_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


class _Registry(RegistryService):
    """The real one; of how things stand it may be silent."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub.ledger.registry)
        self._hub = hub

    def ListStanding(
        self, request: registry.ListStandingRequest, context: grpc.ServicerContext
    ) -> registry.ListStandingResponse:
        self._hub.looks += 1
        _pass(self._hub)
        return super().ListStanding(request, context)


class _Audit(AuditService):
    """The real one; what it answers may be lost on the way."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub.ledger.registry)
        self._hub = hub

    def RecordInferences(
        self, request: audit.RecordInferencesRequest, context: grpc.ServicerContext
    ) -> audit.RecordInferencesResponse:
        answer = super().RecordInferences(request, context)
        how = self._hub.lose.pop(0) if self._hub.lose else ""
        if how == "at once":
            # As gRPC says of a connection that broke: not a word of ours.
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if how == "in silence":
            self._hub.ended.wait(LONG_S)
        return answer


def _pass(hub: Hub) -> None:
    while hub.silent.is_set():
        if hub.ended.wait(0.05):
            return
