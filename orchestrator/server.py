"""The orchestrator, put together: database, log, services, engine."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

import grpc

from core.canonical import canonical
from core.rpc.channel import open_channel
from core.rpc.identity import Identity
from core.rpc.server import RunningServer, serve
from core.rpc.settings import Peer
from core.wire import write_atomically
from orchestrator.audit.events import RefusalRecorder
from orchestrator.audit.keys import ensure_log_key
from orchestrator.audit.pulse import Pulse
from orchestrator.audit.service import AuditService
from orchestrator.audit.signing import signing
from orchestrator.audit.writer import SIDE_FILE, AuditLog, beside
from orchestrator.federation import Policies
from orchestrator.policy import POLICY
from orchestrator.registry.database import open_database
from orchestrator.registry.service import RegistryService
from orchestrator.registry.store import Registry, enrol_all
from orchestrator.settings import Settings
from orchestrator.workflows.engine import Engine
from orchestrator.workflows.peers import Peers, RemoteInferenceServer, RemoteKeyHolder
from orchestrator.workflows.service import WorkflowService
from orchestrator.workflows.workers import running
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

# A call that begins while a lease is fresh ends before the lease does; see `Engine`.
_CALL_PER_LEASE: Final = 2 / 3

_ALLOWED: Final = {True: "allowed", False: "refused"}

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
    with open_database(settings.database) as database:
        key = ensure_log_key(settings.folder)
        # On a server's database each process keeps a checkpoint in its own folder.
        side_file = beside(database) or settings.folder / SIDE_FILE
        audit_log = AuditLog(database, settings.origin, key, clock, side_file=side_file)
        audit_log.check_against_last_checkpoint()
        registry = Registry(database, audit_log, clock, identity.spiffe)
        with registry.own_change() as change:
            enrol_all(change, (identity.spiffe, *settings.parties))
        # What no checkpoint covers could be cut off unseen while we are away.
        audit_log.checkpoint()
        with signing(audit_log):
            yield registry
        audit_log.checkpoint()


@contextmanager
def open_peers(settings: Settings, identity: Identity) -> Iterator[Peers]:
    """Open a channel to each party that the workflows drive; none is called yet."""
    deadline_s = settings.lease_s * _CALL_PER_LEASE
    with ExitStack() as stack:

        def channel(peer: Peer) -> grpc.Channel:
            return stack.enter_context(_channel(peer, identity, deadline_s))

        servers = [channel(peer) for peer in settings.inference_servers]
        yield Peers(
            RemoteKeyHolder(channel(settings.key_holder)),
            RemoteInferenceServer(servers),
            str(settings.key_holder.spiffe_id),
        )


@contextmanager
def orchestrate(
    settings: Settings,
    identity: Identity,
    registry: Registry,
    peers: Peers,
) -> Iterator[RunningServer]:
    """Serve the registry, the log and the workflows, and do their jobs, until left."""
    workflows = WorkflowService(registry, settings.policies, peers.key_holder)
    pulse = Pulse(registry.database, registry.clock)
    record_policies(registry, settings.policies)
    with ExitStack() as stack:
        server = stack.enter_context(
            serve(
                identity,
                POLICY,
                lambda server: _add_services(
                    registry, settings.policies, workflows, pulse, server
                ),
                SERVICES,
                settings.listen,
                on_refusal=RefusalRecorder(registry),
                admit=registry.admit,
                federation=settings.federation,
            )
        )
        stack.enter_context(running(_engine(settings, registry, peers)))
        stack.enter_context(pulse.kept(server.set_serving))
        write_atomically(settings.address, server.address.encode(), mode=0o644)
        log.info("orchestrator serves", extra={"address": server.address})
        yield server


def record_policies(registry: Registry, policies: Policies) -> None:
    """Record what is in force from now on: an operator could have edited the file.

    The digest is that of the policies as RFC 8785 canonical JSON.
    """
    written = canonical(policies.model_dump(mode="json"))
    facts = {
        "sha256": hashlib.sha256(written).hexdigest(),
        "dual_control": ", ".join(sorted(policies.dual_control)) or "nothing",
        "public_embeddings": _ALLOWED[policies.allow_public_embeddings],
    }
    with registry.own_change() as change:
        change.record("policy.in_force", facts)


def _engine(settings: Settings, registry: Registry, peers: Peers) -> Engine:
    return Engine(
        registry,
        peers,
        settings.policies,
        lease_s=settings.lease_s,
        workers=settings.workers,
    )


def _channel(
    peer: Peer, identity: Identity, deadline_s: float
) -> AbstractContextManager[grpc.Channel]:
    return open_channel(peer.address, identity, peer.spiffe_id, deadline_s=deadline_s)


def _add_services(
    registry: Registry,
    policies: Policies,
    workflows: WorkflowService,
    pulse: Pulse,
    server: grpc.Server,
) -> None:
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(
        RegistryService(registry, policies), server
    )
    audit_pb2_grpc.add_AuditServiceServicer_to_server(
        AuditService(registry, pulse.missed), server
    )
    workflows_pb2_grpc.add_WorkflowServiceServicer_to_server(workflows, server)
