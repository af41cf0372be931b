"""The inference server's process: `python -m parties.inference_server --folder F`."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from core.errors import KeymixerError
from core.rpc import logs
from core.rpc.channel import open_channel
from core.rpc.identity import Identity, load_identity
from core.rpc.party import ensure_signing_key
from core.rpc.private_files import write_public
from core.rpc.server import RunningServer, ServerSettings, serve
from parties.admission import only
from parties.audit import GrpcAuditLog, Reporter
from parties.inference_server.catalogue import Catalogue
from parties.inference_server.intake import Intake, reload
from parties.inference_server.policy import POLICY
from parties.inference_server.service import (
    INFERENCE,
    MODEL_STORE,
    InferenceService,
    Limits,
    ModelStoreService,
)
from parties.inference_server.settings import Settings
from parties.inference_server.store import ModelStore
from parties.inference_server.torch_engine import TorchEngine
from parties.presence import Presence, PublicKeys
from parties.registry import IDEMPOTENT, GrpcRegistry
from protos.model_store_pb2_grpc import add_ModelStoreServiceServicer_to_server
from protos.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server

log = logging.getLogger(__name__)


def main() -> int:
    """Serve until told to stop; the exit code says how it went."""
    parser = argparse.ArgumentParser(prog="python -m parties.inference_server")
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    logs.configure()
    try:
        with running(folder) as server:
            server.wait()
    except KeymixerError as error:
        log.critical("cannot run", extra={"kind": error.kind, "why": str(error)})
        return 1
    return 0


@contextmanager
def running(folder: Path) -> Iterator[RunningServer]:
    """An inference server that serves; the folder's `address` says where."""
    settings, identity = Settings.read(folder), load_identity(folder)
    keys = PublicKeys(ensure_signing_key(folder).public_key().public_bytes_raw())
    with ExitStack() as stack:
        ports = _ports(settings, identity, stack)
        presence = Presence(ports.registry, str(identity.spiffe), keys)
        services = _services(folder, settings, ports, presence.is_ready)
        server = stack.enter_context(_serving(services, ports, settings, identity))
        write_public(folder / "address", server.address.encode())
        ports.reporter.report("server.started", {"address": server.address})
        stack.enter_context(presence.kept(server.set_serving))
        yield server


@dataclass(frozen=True, slots=True)
class _Ports:
    registry: GrpcRegistry
    audit: GrpcAuditLog
    reporter: Reporter


def _ports(settings: Settings, identity: Identity, stack: ExitStack) -> _Ports:
    peer = settings.orchestrator
    channel = stack.enter_context(
        open_channel(peer.address, identity, peer.spiffe_id, retries=IDEMPOTENT)
    )
    audit = GrpcAuditLog(channel)
    return _Ports(GrpcRegistry(channel), audit, stack.enter_context(Reporter(audit)))


def _services(
    folder: Path, settings: Settings, ports: _Ports, ready: Callable[[], bool]
) -> tuple[InferenceService, ModelStoreService]:
    store = ModelStore(folder)
    catalogue = Catalogue(TorchEngine(threads=settings.engine_threads))
    reload(store, catalogue, ports.reporter)
    intake = Intake(store, catalogue, ports.registry, settings.max_backbone_bytes)
    limits = Limits(settings.max_images, settings.max_message_bytes)
    return (
        InferenceService(
            catalogue,
            ports.audit,
            ports.reporter,
            limits,
            ready=ready,
            entropy=os.urandom,
        ),
        ModelStoreService(intake, ports.audit, ports.reporter),
    )


@contextmanager
def _serving(
    services: tuple[InferenceService, ModelStoreService],
    ports: _Ports,
    settings: Settings,
    identity: Identity,
) -> Iterator[RunningServer]:
    inference, model_store = services
    peers = (settings.orchestrator, settings.key_holder)

    def register(server: grpc.Server) -> None:
        add_GRPCInferenceServiceServicer_to_server(inference, server)
        add_ModelStoreServiceServicer_to_server(model_store, server)

    with serve(
        identity,
        POLICY,
        register,
        [INFERENCE, MODEL_STORE],
        settings.listen,
        settings=ServerSettings(max_message_bytes=settings.max_message_bytes),
        on_refusal=ports.reporter.tell,
        federation=settings.federation,
        admit=only(*(peer.spiffe_id for peer in peers if peer is not None)),
    ) as server:
        yield server


if __name__ == "__main__":
    sys.exit(main())
