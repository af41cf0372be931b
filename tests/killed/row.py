"""Three replicas of an inference server, each a process that a test kills and starts.

Around them a whole federation: orchestrator and key holder in processes of their own,
and owners that ask over mutual TLS.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import grpc
import numpy as np
import pytest
import torch
import yaml

from core.errors import Unavailable
from core.preprocessing import normalise
from core.rpc.channel import open_channel, wait_ready
from core.rpc.identity import INFERENCE_SERVER, load_identity
from core.rpc.party import ensure_signing_key
from core.statements import MANIFEST, sign
from orchestrator.operator import Operator, operator
from orchestrator.simulation.setup import HEALTH_SERVICES
from orchestrator.simulation.workspace import (
    Workspace,
    assign_ports,
    create_workspace,
)
from parties.data_owner.client import Client, open_client
from parties.model_provider.registry import connect as connect_provider
from parties.model_provider.release import Release
from parties.model_provider.settings import ProviderSettings
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.killed.site import SCENARIO, free_port
from tests.unit.parties.stage import Release as Made

REPLICAS: Final = ("inference-server", "inference-server-2", "inference-server-3")
PATIENCE_S: Final = 120.0
LOOK_EVERY_S: Final = 0.02
MODULES: Final = {
    "orchestrator": "orchestrator",
    "key-holder": "parties.key_holder",
    INFERENCE_SERVER: "parties.inference_server",
}
# What a replica keeps on its disk, besides who it is.
KEPT: Final = ("backbones", "issued")


@dataclass
class Row:
    """The running servers by name, and those who use them."""

    workspace: Workspace
    operator: Operator
    stack: ExitStack
    made: Made = field(default_factory=Made)
    _running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return self.workspace.federation.models[0].name

    def owner(self, name: str) -> str:
        return str(self.workspace.owner(name))

    @cached_property
    def clients(self) -> Mapping[str, Client]:
        """An owner's client each; it knows all replicas."""
        names = self.workspace.federation.organisations_with("data-owner")
        folders = {name: self.workspace.owner_folder(name) for name in names}
        return {
            name: self.stack.enter_context(open_client(folder))
            for name, folder in folders.items()
        }

    def start(self, server: str) -> None:
        """Start a server; `wait_healthy` says when it serves."""
        module = MODULES[self.workspace.servers[server]]
        command = [sys.executable, "-m", module, "--folder", str(self._folder(server))]
        with (self.workspace.logs / f"{server}.log").open("ab") as log:
            self._running[server] = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, server: str) -> None:
        """End it at once, as a machine that loses its power."""
        process = self._running.pop(server)
        process.kill()
        process.wait()

    def empty_disk(self, server: str) -> None:
        for part in KEPT:
            shutil.rmtree(self._folder(server) / part)

    def wait_healthy(self, server: str) -> None:
        role = self.workspace.servers[server]
        party = self.workspace.federation.only(role)
        identity = load_identity(self.workspace.operator_folder())
        address = self.workspace.address(server)
        end = time.monotonic() + PATIENCE_S
        while True:
            assert self._running[server].poll() is None, f"{server} ended"
            with suppress(Unavailable):
                wait_ready(address, identity, party, HEALTH_SERVICES[role], 1.0)
                return
            assert time.monotonic() < end, f"{server} is not healthy"

    def stop(self) -> None:
        for server in list(self._running):
            self.kill(server)

    def release(self) -> None:
        """A provider's release: registered, delivered, the champion."""
        provider = self.workspace.server_folder("model-provider")
        release = Release(self.made.manifest, self.made.embedding, self.made.backbone)
        key = ensure_signing_key(provider)
        signature = sign(key, MANIFEST, release.manifest.to_bytes())
        with ExitStack() as stack:
            settings = ProviderSettings.read(provider)
            delivery = connect_provider(stack, settings, load_identity(provider))
            delivery.register(release, signature, key)

    def give_key(self, name: str) -> None:
        """An owner gets a key, and the model is issued under it."""
        self.operator.grant(self.owner(name), self.model)
        self.operator.create_key(self.owner(name), self.model)
        client = self.clients[name]

        def usable() -> bool:
            with suppress(Exception):
                client.use(fresh=True)
                return True
            return False

        wait_until(usable)

    def plain(self, images: np.ndarray) -> np.ndarray:
        """What the plain model says, in this process."""
        pixels = normalise(images, self.made.manifest.preprocessing)
        with torch.inference_mode():
            logits: np.ndarray = self.made.model(torch.from_numpy(pixels)).numpy()
        return logits

    @contextmanager
    def straight_to(
        self, replica: str, owner: str
    ) -> Iterator[GRPCInferenceServiceStub]:
        """One replica and no other, as an owner reaches it; nothing is retried."""
        with open_channel(
            self.workspace.address(replica),
            load_identity(self.workspace.owner_folder(owner)),
            self.workspace.federation.only(INFERENCE_SERVER),
            deadline_s=PATIENCE_S,
        ) as channel:
            yield GRPCInferenceServiceStub(channel)

    def _folder(self, server: str) -> Path:
        return self.workspace.root / server


@contextmanager
def open_row(folder: Path) -> Iterator[Row]:
    """A federation whose inference server has three replicas, with one release."""
    workspace = _workspace(folder)
    with ExitStack() as stack:
        identity = workspace.operator_folder()
        row = Row(workspace, stack.enter_context(operator(identity)), stack)
        stack.callback(row.stop)
        for server in workspace.servers:
            row.start(server)
        for server in workspace.servers:
            row.wait_healthy(server)
        for client in row.clients.values():
            client.register()
        row.release()
        yield row


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(LOOK_EVERY_S)


def status_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """The status of a call that failed, and the kind of our error."""
    assert isinstance(error, grpc.Call)
    return error.code(), (error.details() or "").partition(":")[0]


def _workspace(folder: Path) -> Workspace:
    content = yaml.safe_load(SCENARIO.read_text()) | {"serving": {"replicas": 3}}
    scenario = folder / "federation.yaml"
    scenario.write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        # While a replica is dead, nobody else must be given its port.
        patch.setattr(
            "orchestrator.simulation.workspace._free_addresses",
            lambda servers: {name: f"127.0.0.1:{free_port()}" for name in servers},
        )
        workspace = create_workspace(folder / "runs", scenario)
        assign_ports(workspace)
    return workspace
