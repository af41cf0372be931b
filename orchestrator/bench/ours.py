"""Our own servers, made ready to be measured: owners with keys, requests in files."""

import io
import json
import shutil
import time
from collections.abc import Iterator, Sequence
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
from orchestrator.bench.peers import PeerNotStarted, Server, require_right
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
    # Of the inference server and of the orchestrator, which keeps the log.
    server: Tree
    log: Tree

    @property
    def folder(self) -> Path:
        """The inference server's."""
        return self.stage.workspace.server_folder(INFERENCE_SERVER)

    @property
    def model_folder(self) -> Path:
        """Where the release is, for whoever serves it in the plain."""
        return self.release


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
            Tree(_process(stage, INFERENCE_SERVER).pid),
            Tree(_process(stage, ORCHESTRATOR).pid),
        )


def _released(stage: Stage, given: Path | None, pixels: np.ndarray) -> Path:
    where = release_folder(stage.workspace, stage.model)
    if given is None:
        write_untrained(where, stage.model, pixels)
    else:
        shutil.copytree(given, where)
    release(stage)
    return where


def _process(stage: Stage, role: str) -> Process:
    return next(p for p in stage.running.seen if p.role == role)


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
    site: Site, asked: dict[str, Path], server: Server | None = None
) -> tuple[Way, ...]:
    """One for each owner, on its own certificate, to one of our servers."""
    place = server or of_stage(site)
    return tuple(
        Way(target=_as(site, owner, place.target), questions=str(path))
        for owner, path in asked.items()
    )


def of_stage(site: Site) -> Server:
    """The federation's inference server, with all that belongs to it."""
    port = int(site.stage.workspace.address(INFERENCE_SERVER).rpartition(":")[2])
    target = Target(transport="grpc", port=port, path=INFER, form=_FORM)
    return Server("keymixer", "", target, site.server)


def without(site: Site, part: str, asked: dict[str, Path]) -> Server:
    """Start a copy of the inference server that lacks its audit log, or its TLS.

    Raises:
        PeerNotStarted: it gave no right answer in time.
    """
    folder = site.folder.with_name(f"without-{part}")
    shutil.copytree(site.folder, folder)
    settings = json.loads((folder / "settings.json").read_text())
    changed = json.dumps({**settings, "listen": "127.0.0.1:0"}).encode()
    write_atomically(folder / "settings.json", changed)
    (folder / "address").unlink()
    command = ["parties.inference_server.unguarded", "--folder", str(folder)]
    process = site.stage.running.start(
        f"without-{part}", INFERENCE_SERVER, [*command, "--without", part]
    )
    owner, questions = next(iter(asked.items()))
    first = read_questions(questions)[0]
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        site.stage.running.check()
        if (folder / "address").is_file():
            target = _target(site, folder, "" if part == "audit" else owner)
            with suppress(PeerUnavailable, TimeoutError):
                require_right(_as(site, owner, target), first)
                return Server(f"keymixer without {part}", "", target, Tree(process.pid))
        time.sleep(_LOOK_S)
    raise PeerNotStarted(f"a server without {part}: see {process.log}")


def _target(site: Site, folder: Path, claimed: str) -> Target:
    """Where a copy listens; in clear, if its callers claim to be somebody."""
    port = int((folder / "address").read_text().rpartition(":")[2])
    caller = str(site.stage.workspace.owner(claimed)) if claimed else ""
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
