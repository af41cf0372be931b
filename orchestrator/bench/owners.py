"""What many owners take of one inference server: the whole process, and its answers.

Orchestrator, key holder and inference server are the processes that `keymixer up`
starts. Some owners ask, each over a connection of its own.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from core.architecture import Architecture
from core.errors import KeymixerError, StorageError
from core.rpc.channel import open_channel
from core.rpc.errors import remote_errors
from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    SpiffeId,
    load_identity,
)
from core.rpc.party import SIGNING_KEY_FILE
from core.wire import to_bytes, write_atomically
from orchestrator.bench.federation import MODEL
from orchestrator.bench.inhabited import settle
from orchestrator.bench.keys import Plan as Sizes
from orchestrator.bench.keys import workspace_for
from orchestrator.bench.machine import described
from orchestrator.bench.release import architecture_of, write_untrained
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Process, ProcessFailed
from orchestrator.simulation.run import running
from orchestrator.simulation.setup import Stage, release, start_servers
from orchestrator.simulation.training import release_folder
from orchestrator.simulation.workspace import Workspace
from orchestrator.workflows.keys import key_id
from protos import open_inference_pb2 as pb
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub

_CROWD: Final = "parties.inference_server.crowd"
_WARM: Final = 4


class MeasuringFailed(KeymixerError):
    """A process that is measured ended with an error, or an owner got no answer."""

    hint = "see what it printed; there must be room on the disk for all embeddings"


@dataclass(frozen=True, slots=True)
class Plan:
    """How many owners, of what model, and how much memory for embeddings (in MiB)."""

    owners: int = 10_000
    hidden: int = 256
    patch: int = 4
    budget_mib: int = 256
    depth: int = 8
    # How many of them ask.
    asked: int = 200


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process held at most, and holds now, in MiB."""

    peak: float
    now: float

    @classmethod
    def of(cls, process: Process) -> "Memory":
        """As the kernel counts it."""
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        said = dict(line.split(":", 1) for line in lines)
        peak, now = (int(said[name].split()[0]) for name in ("VmHWM", "VmRSS"))
        return cls(round(peak / 1024, 1), round(now / 1024, 1))


def measure_owners(plan: Plan, told: Narrator) -> dict[str, Any]:
    """Have a server start on what was issued to so many, and some of them ask.

    Raises:
        MeasuringFailed: a process ended, or an owner got no answer.
    """
    sizes = Sizes(min(plan.asked, plan.owners), plan.hidden, plan.patch, 1, plan.depth)
    quiet = Narrator(Console(quiet=True))
    with tempfile.TemporaryDirectory(prefix="keymixer-bench-") as folder:
        workspace = workspace_for(sizes, Path(folder))
        with _failures(), running(workspace, quiet, "") as stage:
            with told.phase("release", "A federation with a model nobody trained"):
                _released(stage)
            with told.phase("keys", f"What is issued to {plan.owners:,} owners"):
                _issue(stage, plan)
            with told.phase("start", "The federation starts again with them"):
                start_servers(stage)
            with told.phase("questions", f"{plan.asked} owners ask"):
                return _measured(stage, plan, told)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (ProcessFailed, StorageError) as error:
        raise MeasuringFailed(str(error)) from error


def _released(stage: Stage) -> None:
    start_servers(stage)
    write_untrained(release_folder(stage.workspace, stage.model), stage.model)
    release(stage)
    stage.running.stop()


def _issue(stage: Stage, plan: Plan) -> None:
    """Lay embeddings on the server's disk, and have the registry list them."""
    workspace = stage.workspace
    owners, server = _owners(workspace, plan.owners), _folder(workspace)
    names = workspace.root / "names.json"
    named = [(key_id(owner, MODEL), str(owner)) for owner in owners]
    write_atomically(names, json.dumps(named).encode())
    command = (
        *(_CROWD, "--folder", str(server), "--names", str(names), "--model", MODEL),
        *("--hidden", str(plan.hidden), "--patch", str(plan.patch)),
        *("--signer", str(workspace.federation.only(KEY_HOLDER))),
        "--signing-key",
        str(workspace.server_folder(KEY_HOLDER) / SIGNING_KEY_FILE),
    )
    stage.running.run("crowd", INFERENCE_SERVER, command)
    settle(workspace, server / "issued", owners)
    settings = json.loads((server / "settings.json").read_text())
    changed = {**settings, "max_embedding_bytes": plan.budget_mib << 20}
    write_atomically(server / "settings.json", json.dumps(changed).encode())


def _owners(workspace: Workspace, count: int) -> list[SpiffeId]:
    """Those who have a certificate first, as in `federation_of`."""
    name = workspace.federation.federation
    numbers = range(1, count + 1)
    return [SpiffeId(name, f"owner-{number:06}", DATA_OWNER) for number in numbers]


def _folder(workspace: Workspace) -> Path:
    return workspace.server_folder(INFERENCE_SERVER)


def _measured(stage: Stage, plan: Plan, told: Narrator) -> dict[str, Any]:
    server = [p for p in stage.running.seen if p.role == INFERENCE_SERVER][-1]
    started = Memory.of(server)
    times = [_times_ms(stage, owner) for owner in stage.owners]
    cold, warm = [first for first, *_ in times], [rest for _, *rest in times]
    more = [first - statistics.median(rest) for first, *rest in times]
    asked = Memory.of(server)
    return {
        "owners": plan.owners,
        "hidden": plan.hidden,
        "patch": plan.patch,
        "depth": plan.depth,
        "budget_mib": plan.budget_mib,
        "asked": len(times),
        "start_s": round(told.seconds["start"], 2),
        "peak_mib": asked.peak,
        "peak_at_start_mib": started.peak,
        "memory_mib": asked.now,
        "cold_ms": _spread(cold),
        "warm_ms": _spread(list(chain(*warm))),
        "cold_minus_warm_ms": round(statistics.median(more), 3),
        "machine": described(stage.workspace.root),
    }


def _times_ms(stage: Stage, owner: str) -> Sequence[float]:
    """The first answer to an owner whose embedding is on disk, and the next ones."""
    workspace = stage.workspace
    request = _question(workspace.owner(owner), architecture_of(stage.model))
    identity = load_identity(workspace.owner_folder(owner))
    peer = workspace.federation.only(INFERENCE_SERVER)
    address = workspace.address(INFERENCE_SERVER)
    with open_channel(address, identity, peer) as channel, remote_errors(str(peer)):
        stub = GRPCInferenceServiceStub(channel)
        # What a connection costs is not what a cold owner costs.
        stub.ServerReady(pb.ServerReadyRequest())
        return [_timed_ms(stub, request) for _ in range(1 + _WARM)]


def _timed_ms(stub: GRPCInferenceServiceStub, request: pb.ModelInferRequest) -> float:
    began_s = time.perf_counter()
    stub.ModelInfer(request)
    return 1000 * (time.perf_counter() - began_s)


def _question(owner: SpiffeId, sizes: Architecture) -> pb.ModelInferRequest:
    """One picture, as blocks of nothing."""
    blocks = np.zeros((1, sizes.rows, sizes.columns, sizes.dimension), np.float32)
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="encrypted_blocks", datatype="FP32", shape=blocks.shape
    )
    return pb.ModelInferRequest(
        model_name=MODEL,
        parameters={
            "key_id": pb.InferParameter(string_param=key_id(owner, MODEL)),
            "key_version": pb.InferParameter(int64_param=1),
        },
        inputs=[tensor],
        raw_input_contents=[to_bytes(blocks)],
    )


def _spread(times_ms: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times_ms, n=100)
    return {"median": round(cuts[49], 3), "p99": round(cuts[98], 3)}
