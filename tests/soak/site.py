"""A federation under load: real servers, owners with keys, and their connections."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Final

import grpc
import numpy as np
from rich.console import Console

from core.encoding import FP32
from core.rpc.channel import open_channel
from core.rpc.errors import remote_errors
from core.rpc.identity import INFERENCE_SERVER, Identity, SpiffeId, load_identity
from core.wire import write_atomically
from orchestrator.bench.federation import federation_of, write_federation
from orchestrator.bench.keys import Bench, create_keys
from orchestrator.bench.keys import Plan as Sizes
from orchestrator.bench.questions import answer_plainly
from orchestrator.bench.release import write_untrained
from orchestrator.federation import Federation, LimitPolicy
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.run import running
from orchestrator.simulation.setup import Stage, release, start_servers
from orchestrator.simulation.training import release_folder
from orchestrator.simulation.workspace import Workspace, create_workspace
from parties.data_owner.answers import Receipt
from parties.data_owner.client import open_client
from parties.data_owner.inference import Blocks, Pixels, Use, read_answer, request_for
from protos import open_inference_pb2 as pb
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub

DEADLINE_S: Final = 30.0
# The last owner may not ask for more.
IMAGES_PER_S: Final = 2
# Of one owner so many may wait: the last but one sends more at once.
WAITING_EACH: Final = 32
_SIZES: Final = Sizes(owners=8, hidden=64, patch=4, depth=2)
_PIXELS: Final = (400, 32, 32, 3)
_MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A request, and what the plain model says of its images."""

    request: pb.ModelInferRequest
    classes: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class Owner:
    """A data owner; its pictures are encrypted once."""

    name: str
    folder: Path
    use: Use
    blocks: Blocks = field(repr=False)
    classes: Sequence[int] = field(repr=False)
    _turns: Iterator[int] = field(default_factory=count, repr=False)

    def question(self, images: int, datatype: str = FP32) -> Question:
        """So many of its pictures, each time others."""
        at = next(self._turns) * 7 % (len(self.blocks) - images + 1)
        part = slice(at, at + images)
        request = request_for(self.blocks[part], self.use, datatype)
        return Question(request, self.classes[part])

    def identity(self) -> Identity:
        return load_identity(self.folder)


@dataclass(frozen=True, eq=False)
class Site:
    """A federation that serves."""

    stage: Stage
    pixels: Pixels
    classes: Sequence[int]

    @property
    def workspace(self) -> Workspace:
        return self.stage.workspace

    @property
    def server(self) -> SpiffeId:
        return self.workspace.federation.only(INFERENCE_SERVER)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.workspace.address(INFERENCE_SERVER).rpartition(":")
        return host, int(port)

    @cached_property
    def owners(self) -> Sequence[Owner]:
        return [self._owner(name) for name in sorted(self.stage.owners)]

    @property
    def calm(self) -> Sequence[Owner]:
        """Owners that keep to what they may."""
        return self.owners[:-2]

    @property
    def flooding(self) -> Owner:
        return self.owners[-2]

    @property
    def greedy(self) -> Owner:
        return self.owners[-1]

    def pid(self, role: str) -> int:
        return next(each.pid for each in self.stage.running.seen if each.role == role)

    def _owner(self, name: str) -> Owner:
        folder = self.workspace.owner_folder(name)
        with open_client(folder) as client:
            use = client.use()
        return Owner(name, folder, use, use.encrypt(self.pixels), self.classes)


@dataclass(frozen=True, slots=True)
class Line:
    """One connection of an owner to the inference server."""

    owner: Owner
    channel: grpc.Channel

    @property
    def stub(self) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(self.channel)

    def ask(self, question: Question, deadline_s: float = DEADLINE_S) -> Receipt:
        """Ask, and check the answer; `AssertionError`: it is wrong."""
        with remote_errors("inference server"):
            answer = self.stub.ModelInfer(question.request, timeout=deadline_s)
        return self.read(question, answer)

    def read(self, question: Question, answer: pb.ModelInferResponse) -> Receipt:
        request = question.request
        found = read_answer(request, answer, self.owner.use, _MAX_BYTES)
        if request.inputs[0].datatype == FP32:
            assert list(question.classes) == list(found.top), "a wrong answer"
        return found.receipts[0]


@contextmanager
def line(site: Site, owner: Owner, address: str = "") -> Iterator[Line]:
    """Connect at the first call; `address`: what stands between, instead."""
    host, port = site.address
    with open_channel(
        address or f"{host}:{port}",
        owner.identity(),
        site.server,
        deadline_s=DEADLINE_S,
    ) as channel:
        yield Line(owner, channel)


@contextmanager
def open_site(folder: Path, console: Console) -> Iterator[Site]:
    """Bring a federation up, give every owner a key, and take it down at the end."""
    told = Narrator(console)
    quiet = Narrator(Console(quiet=True))
    pixels = np.random.default_rng(0).integers(0, 256, _PIXELS, dtype=np.uint8)
    with running(_workspace(folder), quiet, "") as stage:
        _set_bounds(stage.workspace)
        with told.phase("servers", "Orchestrator, key holder and inference server"):
            start_servers(stage)
            where = release_folder(stage.workspace, stage.model)
            write_untrained(where, stage.model, pixels)
            release(stage)
        with told.phase("keys", "Keys: drawn, delivered, issued"):
            create_keys(Bench(_SIZES, stage, told))
        answered = answer_plainly(where, pixels)
        yield Site(stage, answered.pixels, answered.classes)


def _workspace(folder: Path) -> Workspace:
    folder.mkdir(parents=True, exist_ok=True)
    scenario = folder / "federation.yaml"
    write_federation(_federation(), scenario)
    return create_workspace(folder, scenario)


def _set_bounds(workspace: Workspace) -> None:
    path = workspace.server_folder(INFERENCE_SERVER) / "settings.json"
    settings = json.loads(path.read_text()) | {"max_waiting_each": WAITING_EACH}
    write_atomically(path, json.dumps(settings).encode())


def _federation() -> Federation:
    made = federation_of(_SIZES.owners, _SIZES.hidden, _SIZES.patch, _SIZES.depth)
    last = made.policies.grants[-1].owner
    limit = LimitPolicy(owner=last, images_per_s=IMAGES_PER_S, burst=IMAGES_PER_S)
    policies = made.policies.model_copy(update={"limits": [limit]})
    return made.model_copy(update={"policies": policies})
