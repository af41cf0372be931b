"""An orchestrator's registry and log in a process of its own, to be taken away.

It is the real services on a real database, without the workflows; `main` is what runs
there. A test breaks it from outside: kills or stops it, or takes its disk.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.database import open_database
from core.rpc.identity import load_identity
from core.rpc.server import serve
from orchestrator.audit.events import RefusalRecorder
from orchestrator.audit.pulse import Pulse
from orchestrator.audit.service import AuditService
from orchestrator.audit.writer import AuditLog
from orchestrator.policy import POLICY
from orchestrator.registry.database import MIGRATIONS
from orchestrator.registry.service import RegistryService
from orchestrator.registry.store import Registry
from protos import audit_pb2_grpc, registry_pb2_grpc
from tests.fakes import FakeClock
from tests.unit.orchestrator.ledger import HUB_ID

WAIT_S = 1.0
BEAT_S = 0.2


@dataclass
class Apart:
    """The process; `home` has its identity, `url` is its database."""

    home: Path
    url: str
    address: str = "127.0.0.1:0"
    _process: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        """Start it, at the address it had before."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self.home, self.url, self.address],
            stdout=subprocess.PIPE,
            # No file of its own may be in the way when its disk is full.
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, "it did not start"

    def kill(self) -> None:
        self._running.send_signal(SIGKILL)
        # Reads to the end and closes the pipe.
        self._running.communicate()

    def pause(self) -> None:
        """It keeps its connections, and answers nothing."""
        self._running.send_signal(SIGSTOP)

    def go_on(self) -> None:
        self._running.send_signal(SIGCONT)

    def fill_disk(self) -> None:
        """From now on no file of its can be written, as on a disk that is full."""
        resource.prlimit(self._running.pid, resource.RLIMIT_FSIZE, (1, _hard()))

    def free_disk(self) -> None:
        limits = (_hard(), _hard())
        resource.prlimit(self._running.pid, resource.RLIMIT_FSIZE, limits)

    @property
    def _running(self) -> "subprocess.Popen[str]":
        assert self._process is not None
        return self._process


@contextmanager
def orchestrator_apart(home: Path, url: str) -> Iterator[Apart]:
    """Start it; however it stands when the block ends, it ends."""
    apart = Apart(home, url)
    apart.start()
    try:
        yield apart
    finally:
        apart.kill()


def main() -> None:
    home, url, address = sys.argv[1:]
    pen, clock = Ed25519PrivateKey.from_private_bytes(b"l" * 32), FakeClock()
    with open_database(url, MIGRATIONS, wait_s=WAIT_S) as database:
        log = AuditLog(database, "demo/audit", pen, clock)
        _serve(Registry(database, log, clock, HUB_ID), Path(home), address)


def _serve(registry: Registry, home: Path, address: str) -> None:
    pulse = Pulse(registry.database, registry.clock)

    def register(server: grpc.Server) -> None:
        add: Any = registry_pb2_grpc.add_RegistryServiceServicer_to_server
        add(RegistryService(registry), server)
        add = audit_pb2_grpc.add_AuditServiceServicer_to_server
        add(AuditService(registry, pulse.missed), server)

    with (
        serve(
            load_identity(home),
            POLICY,
            register,
            [],
            address,
            on_refusal=RefusalRecorder(registry),
            admit=registry.admit,
        ) as server,
        pulse.kept(server.set_serving, BEAT_S),
    ):
        sys.stdout.write(f"{server.address}\n")
        sys.stdout.flush()
        server.wait()


def _hard() -> int:
    return resource.getrlimit(resource.RLIMIT_FSIZE)[1]


if __name__ == "__main__":
    main()
