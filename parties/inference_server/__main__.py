"""The inference server's process: `python -m parties.inference_server --folder F`."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import grpc
from prometheus_client import CollectorRegistry
from threadpoolctl import threadpool_limits

from core.errors import KeymixerError
from core.rpc import logs
from core.rpc.channel import open_channel
from core.rpc.identity import Identity, load_identity
from core.rpc.private_files import write_public
from core.rpc.server import RunningServer, ServerSettings, serve
from core.rpc.settings import Peer
from core.statements import IssueStatement
from parties.admission import Check, every, in_good_standing, only
from parties.audit import GrpcAuditLog, Reporter, record_event
from parties.inference_server.ahead import Window
from parties.inference_server.allocator import giving_back, keep_few_arenas
from parties.inference_server.answering import Answering, Limits
from parties.inference_server.batcher import Batcher
from parties.inference_server.catalogue import Catalogue
from parties.inference_server.embeddings import Embeddings
from parties.inference_server.engine import Engine
from parties.inference_server.engines.choice import engine_named
from parties.inference_server.fellows import Fellows
from parties.inference_server.intake import Intake
from parties.inference_server.lanes import Room
from parties.inference_server.meter import Meter, NoMeter
from parties.inference_server.metrics import PrometheusMeter, exported
from parties.inference_server.policy import POLICY
from parties.inference_server.rates import Rates
from parties.inference_server.records import Verdicts
from parties.inference_server.releases import Releases
from parties.inference_server.service import (
    BULK,
    INFERENCE,
    MODEL_STORE,
    BulkInferenceService,
    InferenceService,
    ModelStoreService,
    issued_facts,
)
from parties.inference_server.settings import Settings
from parties.inference_server.stock import Stock
from parties.inference_server.store import IssuedName, ModelName, ModelStore
from parties.inference_server.streams import REQUESTS, Berths, Streams
from parties.inference_server.supply import Supply
from parties.inference_server.tracing import Tracer, traced, traces_url
from parties.log_watch import LogWatch, watched
from parties.presence import Presence, attended
from parties.registry import IDEMPOTENT, LARGEST_ANSWER, GrpcRegistry
from parties.standing import Standing
from protos.bulk_pb2_grpc import add_BulkInferenceServiceServicer_to_server
from protos.model_store_pb2_grpc import add_ModelStoreServiceServicer_to_server
from protos.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server

log = logging.getLogger(__name__)

# As `core.rpc.server.serve` is called.
Serving: TypeAlias = Callable[..., AbstractContextManager[RunningServer]]

# Room for calls that do not wait for a batch: health, metadata, uploads.
_OTHER_CALLS: Final = 32
# What was accepted is answered, if it does not take longer than this.
DRAIN_S: Final = 10.0


def main() -> int:
    """Serve until told to stop; the exit code says how it went."""
    parser = argparse.ArgumentParser(prog="python -m parties.inference_server")
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    logs.configure()
    keep_few_arenas()
    try:
        with giving_back(), running(folder) as server:
            server.wait()
    except KeymixerError as error:
        log.critical("cannot run", extra={"kind": error.kind, "why": str(error)})
        return 1
    return 0


@contextmanager
def running(
    folder: Path,
    engine: Engine | None = None,
    clock: Callable[[], float] = time.monotonic,
    *,
    recorded: Callable[[Verdicts], Verdicts] = lambda releases: releases,
    serving: Serving = serve,
) -> Iterator[RunningServer]:
    """An inference server that serves; the folder's `address` says where.

    By `clock`, in seconds, it tells how old the registry's word is. `recorded` and
    `serving` are for measuring what the log and TLS cost; see `unguarded`.
    """
    settings, identity = Settings.read(folder), load_identity(folder)
    with ExitStack() as stack:
        # NumPy's threads would spin between two products, where engines want the cores.
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        ports = _ports(settings, identity, stack, recorded)
        intake = _intake(folder, settings, ports, engine)
        supply = _supply(settings, ports, intake)
        standing = _standing(settings, ports, supply, clock)
        # It signs nothing: so replicas have no key that they would have to share.
        presence = Presence(ports.registry, str(identity.spiffe))

        def ready() -> bool:
            well = presence.is_ready() and standing.is_fresh()
            return well and not ports.log.why_away

        meter = stack.enter_context(_meter(folder, settings))
        catalogue = intake.catalogue
        url = traces_url(settings.tracing, os.environ)
        tracer = stack.enter_context(traced(url))
        answering = _answering(
            settings, ports, supply, standing, meter=meter, tracer=tracer
        )
        streams = _streams(settings)
        services = _Services(
            InferenceService(answering, catalogue, ports.reporter, ready=ready),
            BulkInferenceService(answering, streams, ports.reporter),
            ModelStoreService(intake, ports.audit, ports.reporter),
        )
        admit = _admission(settings, identity, standing)
        server = stack.enter_context(
            _serving(services, ports, settings, identity, admit, serving=serving)
        )
        # It is left before the server: streams end, and then calls are drained.
        stack.enter_context(streams.open())
        write_public(folder / "address", server.address.encode())
        ports.reporter.report("server.started", {"address": server.address})
        stack.enter_context(attended(presence, standing, server.set_serving, ports.log))
        yield server


@dataclass(frozen=True, slots=True)
class _Services:
    inference: InferenceService
    bulk: BulkInferenceService
    model_store: ModelStoreService

    def register(self, server: grpc.Server) -> None:
        add_GRPCInferenceServiceServicer_to_server(self.inference, server)
        add_BulkInferenceServiceServicer_to_server(self.bulk, server)
        add_ModelStoreServiceServicer_to_server(self.model_store, server)


@dataclass(frozen=True, slots=True)
class _Ports:
    registry: GrpcRegistry
    audit: GrpcAuditLog
    reporter: Reporter
    releases: Verdicts
    log: LogWatch
    fellows: Fellows


def _ports(
    settings: Settings,
    identity: Identity,
    stack: ExitStack,
    recorded: Callable[[Verdicts], Verdicts],
) -> _Ports:
    peer = settings.orchestrator
    channel = stack.enter_context(
        open_channel(
            peer.address,
            identity,
            peer.spiffe_id,
            max_message_bytes=LARGEST_ANSWER,
            retries=IDEMPOTENT,
        )
    )
    audit = GrpcAuditLog(channel)
    releases = Releases(audit)
    stack.enter_context(releases.sending())
    return _Ports(
        GrpcRegistry(channel),
        audit,
        stack.enter_context(Reporter(audit)),
        recorded(releases),
        watched(channel),
        _fellows(settings, identity, stack),
    )


def _fellows(settings: Settings, identity: Identity, stack: ExitStack) -> Fellows:
    def channel(peer: Peer) -> grpc.Channel:
        opened = open_channel(peer.address, identity, peer.spiffe_id)
        return stack.enter_context(opened)

    holder = settings.key_holder
    return Fellows(
        [channel(each) for each in settings.replicas],
        channel(holder) if holder else None,
        settings.max_backbone_bytes,
    )


@contextmanager
def _meter(folder: Path, settings: Settings) -> Iterator[Meter]:
    """What counts; the folder's `metrics-address` says where it can be read."""
    if not settings.metrics:
        yield NoMeter()
        return
    registry = CollectorRegistry()
    meter = PrometheusMeter(registry)
    with exported(registry, settings.metrics) as address:
        write_public(folder / "metrics-address", address.encode())
        yield meter


def _intake(
    folder: Path, settings: Settings, ports: _Ports, engine: Engine | None
) -> Intake:
    engine = engine or engine_named(
        settings.engine, settings.engine_threads, settings.at_once
    )
    store = ModelStore(folder)
    embeddings = Embeddings(store.read_issue, settings.max_embedding_bytes)
    catalogue = Catalogue(engine, embeddings)
    return Intake(store, catalogue, ports.registry, settings.max_backbone_bytes)


def _supply(settings: Settings, ports: _Ports, intake: Intake) -> Supply:
    def record_backbone(name: ModelName, digest: str) -> None:
        facts = {"model": name.model, "model_version": str(name.version)}
        record_event(
            ports.audit,
            "backbone.stored",
            caller="",
            subject=facts | {"digest": digest},
        )

    def record_issue(facts: IssueStatement) -> None:
        said = issued_facts(IssuedName.of(facts)) | {"digest": facts.digest}
        record_event(ports.audit, "issued.stored", caller="", subject=said)

    holder = str(settings.key_holder.spiffe_id) if settings.key_holder else ""
    return Supply(intake, ports.fellows, holder, record_backbone, record_issue)


def _standing(
    settings: Settings, ports: _Ports, supply: Supply, clock: Callable[[], float]
) -> Standing:
    """What lies on disk is compared with the registry before anybody is served."""
    holder = settings.key_holder
    stock = Stock(supply.intake, ports.reporter, holder.spiffe_id if holder else None)
    return Standing(
        ports.registry.standing,
        settings.max_staleness_s,
        at_first=lambda: supply.stock_up(stock.take()),
        clock=clock,
    )


def _answering(
    settings: Settings,
    ports: _Ports,
    supply: Supply,
    standing: Standing,
    *,
    meter: Meter,
    tracer: Tracer,
) -> Answering:
    room = Room(settings.max_waiting, settings.max_waiting_each)
    return Answering(
        catalogue=supply.intake.catalogue,
        releases=ports.releases,
        reporter=ports.reporter,
        limits=Limits(settings.max_images, settings.max_message_bytes),
        standing=standing,
        log=ports.log,
        batcher=Batcher(room, at_once=settings.at_once, meter=meter),
        rates=Rates(settings.limit, settings.limits),
        meter=meter,
        tracer=tracer,
        obtain=supply.obtain,
    )


def _streams(settings: Settings) -> Streams:
    """Half of what streams there may be is for uploads."""
    berths = Berths(total=max(1, _bounds(settings).max_streams // 2))
    window = Window(requests=REQUESTS, content_bytes=settings.max_message_bytes)
    return Streams(berths, window)


def _admission(settings: Settings, identity: Identity, standing: Standing) -> Check:
    peers = (settings.orchestrator, settings.key_holder)
    named = [peer.spiffe_id for peer in peers if peer is not None]
    return every(
        # In the role of an inference server, its own replicas.
        only(identity.spiffe, *named),
        in_good_standing(standing),
    )


@contextmanager
def _serving(
    services: _Services,
    ports: _Ports,
    settings: Settings,
    identity: Identity,
    admit: Check,
    *,
    serving: Serving,
) -> Iterator[RunningServer]:
    with serving(
        identity,
        POLICY,
        services.register,
        [INFERENCE, BULK, MODEL_STORE],
        settings.listen,
        settings=_bounds(settings),
        on_refusal=ports.reporter.tell,
        federation=settings.federation,
        admit=admit,
    ) as server:
        yield server


def _bounds(settings: Settings) -> ServerSettings:
    """A call that waits for its batch holds a worker: there are some to spare."""
    workers = settings.max_waiting + _OTHER_CALLS
    return ServerSettings(
        max_message_bytes=settings.max_message_bytes,
        workers=workers,
        max_concurrent_calls=workers + _OTHER_CALLS,
        drain_s=DRAIN_S,
    )


if __name__ == "__main__":
    sys.exit(main())
