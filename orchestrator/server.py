"""The orchestrator, put together: database, log, services, reconciler."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

import grpc

from core.rpc.channel import open_channel
from core.rpc.identity import Identity
from core.rpc.server import RunningServer, serve
from core.rpc.settings import Peer
from core.wire import write_atomically
from orchestrator.audit.events import RefusalRecorder
from orchestrator.audit.keys import ensure_log_key
from orchestrator.audit.service import AuditService
from orchestrator.audit.signing import signing
from orchestrator.audit.writer import AuditLog
from orchestrator.policy import POLICY
from orchestrator.registry.database import open_database
from orchestrator.registry.service import RegistryService
from orchestrator.registry.store import Registry, enrol
from orchestrator.settings import Settings
from orchestrator.workflows.peers import (
    InferenceServer,
    KeyHolder,
    RemoteInferenceServer,
    RemoteKeyHolder,
)
from orchestrator.workflows.reconcile import Reconciler, running
from orchestrator.workflows.service import WorkflowService
from protos import (
    audit_pb2,
    audit_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    workflows_pb2,
    workflows_pb2_grpc,
)

SERVICES: Final = (
    registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name,
    audit_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name,
    workflows_pb2.DESCRIPTOR.services_by_name["WorkflowService"].full_name,
)

log = logging.getLogger(__name__)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@contextmanager
def open_registry(
    settings: Settings, identity: Identity, clock: Callable[[], int] = now_ms
) -> Iterator[Registry]:
    """Open the registry and its log, and enrol the parties of the settings.

    Raises:
        LogRewound: the log lost records that it had signed: do not serve.
    """
    with open_database(f"sqlite:///{settings.database}") as database:
        key = ensure_log_key(settings.folder)
        audit_log = AuditLog(database, settings.origin, key, clock)
        audit_log.check_against_last_checkpoint()
        registry = Registry(database, audit_log, clock, identity.spiffe)
        with registry.own_change() as change:
            for party in (identity.spiffe, *settings.parties):
                enrol(change, party)
        # What no checkpoint covers could be cut off unseen while we are away.
        audit_log.checkpoint()
        with signing(audit_log):
            yield registry
        audit_log.checkpoint()


@contextmanager
def open_peers(
    settings: Settings, identity: Identity
) -> Iterator[tuple[KeyHolder, InferenceServer]]:
    """Open a channel to each party that the workflows drive; none is called yet."""
    with (
        _channel(settings.key_holder, identity) as key_holder,
        _channel(settings.inference_server, identity) as inference_server,
    ):
        yield RemoteKeyHolder(key_holder), RemoteInferenceServer(inference_server)


@contextmanager
def orchestrate(
    settings: Settings,
    identity: Identity,
    registry: Registry,
    key_holder: KeyHolder,
    inference_server: InferenceServer,
) -> Iterator[RunningServer]:
    """Serve the registry, the log and the workflows, and reconcile, until left."""
    reconciler = Reconciler(
        registry, key_holder, inference_server, str(settings.key_holder.spiffe_id)
    )
    with ExitStack() as stack:
        server = stack.enter_context(
            serve(
                identity,
                POLICY,
                lambda server: _add_services(registry, server),
                SERVICES,
                settings.listen,
                on_refusal=RefusalRecorder(registry),
                federation=settings.federation,
            )
        )
        stack.enter_context(running(reconciler))
        server.set_serving(True)
        write_atomically(settings.address, server.address.encode(), mode=0o644)
        log.info("orchestrator serves", extra={"address": server.address})
        yield server


def _channel(peer: Peer, identity: Identity) -> AbstractContextManager[grpc.Channel]:
    return open_channel(peer.address, identity, peer.spiffe_id, deadline_s=30.0)


def _add_services(registry: Registry, server: grpc.Server) -> None:
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(
        RegistryService(registry), server
    )
    audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditService(registry), server)
    workflows_pb2_grpc.add_WorkflowServiceServicer_to_server(
        WorkflowService(registry), server
    )
