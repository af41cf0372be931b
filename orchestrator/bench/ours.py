"""Our own servers, made ready to be measured: owners with keys, requests in files."""

import io
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from google.protobuf import proto
from rich.console import Console

from core.errors import PeerUnavailable
from core.rpc.identity import (
    CA_FILE,
    CERTIFICATE_FILE,
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_FILE,
    ORCHESTRATOR,
    dns_name,
)
from core.wire import write_atomically
from orchestrator.bench.connections import Target, Tls
from orchestrator.bench.keys import Bench, create_keys, workspace_for
from orchestrator.bench.keys import Plan as Sizes
from orchestrator.bench.load import Way
from orchestrator.bench.peers import PeerNotStarted, require_right
from orchestrator.bench.questions import (
    Answered,
    Question,
    answer_plainly,
    read_questions,
    write_questions,
)
from orchestrator.bench.release import write_untrained
from orchestrator.bench.tree import Tree
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Process
from orchestrator.simulation.run import running
from orchestrator.simulation.setup import Stage, release, start_servers
from orchestrator.simulation.training import release_folder
from protos.open_inference_pb2 import ModelInferRequest

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_FORM: Final = "keymixer"
_READY_S: Final = 60.0
_LOOK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Site:
    """A federation that serves, and the images that its owners ask about."""

    stage: Stage
    release: Path
    answered: Answered
    server: "Replicas"
    # Of the orchestrator, which keeps the log.
    log: Tree

    @property
    def folder(self) -> Path:
        """The inference server's, or its first replica's."""
        return self.stage.workspace.server_folder(INFERENCE_SERVER)

    @property
    def folders(self) -> list[Path]:
        """Those of all replicas."""
        workspace = self.stage.workspace
        servers = workspace.servers.items()
        return [
            workspace.root / name for name, role in servers if role == INFERENCE_SERVER
        ]


@dataclass(frozen=True, slots=True)
class Replicas:
    """Processes that are one server: each owner asks one of them."""

    name: str
    targets: tuple[Target, ...]
    tree: Tree
    entry: tuple[str, ...] = ()


@contextmanager
def site(
    sizes: Sizes,
    release_from: Path | None,
    pixels: np.ndarray,
    folder: Path,
    told: Narrator,
) -> Iterator[Site]:
    """Bring a federation up, give every owner a key, and take it down at the end."""
    quiet = Narrator(Console(quiet=True))
    with told.phase("identities", f"{sizes.owners:,} owners, each with a certificate"):
        workspace = workspace_for(sizes, folder)
    with running(workspace, quiet, "") as stage:
        with told.phase("servers", "Orchestrator, key holder and inference server"):
            start_servers(stage)
            where = _released(stage, release_from, pixels)
        with told.phase("keys", "Keys: drawn, delivered, issued"):
            create_keys(Bench(sizes, stage, told))
        yield Site(
            stage,
            where,
            answer_plainly(where, pixels),
            Replicas("keymixer", _targets(stage), _tree(stage, INFERENCE_SERVER)),
            _tree(stage, ORCHESTRATOR),
        )


def _released(stage: Stage, given: Path | None, pixels: np.ndarray) -> Path:
    where = release_folder(stage.workspace, stage.model)
    if given is None:
        write_untrained(where, stage.model, pixels)
    else:
        shutil.copytree(given, where)
    release(stage)
    return where


def _tree(stage: Stage, role: str) -> Tree:
    return Tree(*(each.pid for each in stage.running.seen if each.role == role))


def _targets(stage: Stage) -> tuple[Target, ...]:
    workspace = stage.workspace
    names = [n for n, role in workspace.servers.items() if role == INFERENCE_SERVER]
    return tuple(_target(workspace.address(name)) for name in names)


def packed(
    site: Site, name: str, *, owners: int, images: int, batch: int
) -> dict[str, Path]:
    """Have owners encrypt some images, and return each one's file of questions."""
    workspace = site.stage.workspace
    names = sorted(site.stage.owners)[:owners]
    asked = workspace.root / f"{name}.npz"
    _save(asked, site.answered.pixels[:images])
    command = (
        *("parties.data_owner", "pack"),
        *("--owners", str(workspace.owner_folder(names[0]).parent)),
        *("--images", str(asked), "--out", f"{name}.requests"),
        *("--batch", str(batch), "--count", str(owners)),
    )
    site.stage.running.run(f"pack-{name}", DATA_OWNER, command)
    return {owner: _questions(site, owner, name, batch) for owner in names}


def _questions(site: Site, owner: str, name: str, batch: int) -> Path:
    """Put the plain model's answers beside an owner's requests."""
    folder = site.stage.workspace.owner_folder(owner)
    requests = _read(folder / f"{name}.requests")
    classes = site.answered.classes
    questions = [
        Question(each.SerializeToString(), classes[at * batch :][:batch])
        for at, each in enumerate(requests)
    ]
    path = folder / f"{name}.questions"
    write_questions(path, questions)
    return path


def ways(
    site: Site, asked: Mapping[str, Path], server: Replicas | None = None
) -> tuple[Way, ...]:
    """Each owner's, on its own certificate, to one of the replicas in turn.

    There is one for each replica at least: who has more of them is asked by one owner
    several times.
    """
    targets = (server or site.server).targets
    count = max(len(asked), len(targets))
    pairs = zip(
        itertools.islice(itertools.cycle(asked.items()), count),
        itertools.cycle(targets),
        strict=False,
    )
    return tuple(
        Way(target=_as(site, owner, target), questions=str(path))
        for (owner, path), target in pairs
    )


@contextmanager
def without(site: Site, part: str, asked: Mapping[str, Path]) -> Iterator[Replicas]:
    """Run a copy of each replica that lacks its audit log, or its TLS.

    Raises:
        PeerNotStarted: one gave no right answer in time.
    """
    running = site.stage.running
    names = [f"without-{part}-{number}" for number in range(1, len(site.folders) + 1)]
    try:
        copies = [
            _copy(site, folder, name, part)
            for folder, name in zip(site.folders, names, strict=True)
        ]
        claimed = "" if part == "audit" else next(iter(asked))
        targets = tuple(
            _answering(site, folder, claimed, asked) for _, folder in copies
        )
        pids = [process.pid for process, _ in copies]
        yield Replicas(f"keymixer without {part}", targets, Tree(*pids))
    finally:
        for name in names:
            running.end(name)


def _copy(site: Site, folder: Path, name: str, part: str) -> tuple[Process, Path]:
    """Start a server on a copy of another one's folder."""
    copied = folder.with_name(name)
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(folder, copied)
    settings = json.loads((copied / "settings.json").read_text())
    changed = json.dumps({**settings, "listen": "127.0.0.1:0"}).encode()
    write_atomically(copied / "settings.json", changed)
    (copied / "address").unlink()
    command = ["parties.inference_server.unguarded", "--folder", str(copied)]
    process = site.stage.running.start(
        name, INFERENCE_SERVER, [*command, "--without", part]
    )
    return process, copied


def _answering(
    site: Site, folder: Path, claimed: str, asked: Mapping[str, Path]
) -> Target:
    """Wait until a copy answers rightly, and say where."""
    owner, questions = next(iter(asked.items()))
    first = read_questions(questions)[0]
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        site.stage.running.check()
        if (folder / "address").is_file():
            caller = str(site.stage.workspace.owner(claimed)) if claimed else ""
            target = _target((folder / "address").read_text(), caller)
            with suppress(PeerUnavailable, TimeoutError):
                require_right(_as(site, owner, target), first)
                return target
        time.sleep(_LOOK_S)
    raise PeerNotStarted(f"a server in {folder.name}: see its log")


def _target(address: str, caller: str = "") -> Target:
    """Where one of our servers listens; in clear, if its callers only claim a name."""
    port = int(address.rpartition(":")[2])
    return Target(transport="grpc", port=port, path=INFER, form=_FORM, caller=caller)


def _as(site: Site, owner: str, target: Target) -> Target:
    """The same server, asked by one owner."""
    workspace = site.stage.workspace
    tls, caller = None, ""
    if target.caller:
        caller = str(workspace.owner(owner))
    else:
        folder = workspace.owner_folder(owner)
        server = workspace.federation.only(INFERENCE_SERVER)
        tls = Tls(
            ca=str(folder / CA_FILE),
            certificate=str(folder / CERTIFICATE_FILE),
            key=str(folder / KEY_FILE),
            server=dns_name(server),
        )
    return Target(
        transport=target.transport,
        port=target.port,
        path=target.path,
        form=target.form,
        tls=tls,
        caller=caller,
    )


def _read(path: Path) -> Sequence[ModelInferRequest]:
    file, found = io.BytesIO(path.read_bytes()), []
    while (one := proto.parse_length_prefixed(ModelInferRequest, file)) is not None:
        found.append(one)
    return found


def _save(path: Path, pixels: np.ndarray) -> None:
    file = io.BytesIO()
    labels = np.zeros(len(pixels), np.int64)
    np.savez(file, allow_pickle=False, images=pixels, labels=labels)
    write_atomically(path, file.getvalue())
