"""The key holder's process: `python -m parties.key_holder --folder F`.

With `rewrap --folder F --to URL` it serves nobody, and changes the key-encryption key.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from core.errors import KeymixerError
from core.rpc import logs
from core.rpc.channel import open_channel
from core.rpc.identity import Identity, load_identity
from core.rpc.party import ensure_signing_key
from core.rpc.private_files import write_public
from core.rpc.server import RunningServer, serve
from core.rpc.settings import Peer
from parties.admission import Check, every, in_good_standing, only
from parties.audit import GrpcAuditLog, Reporter
from parties.key_holder.commands import rewrap_and_tell
from parties.key_holder.delivery import Delivery
from parties.key_holder.inference_server import GrpcInferenceServer
from parties.key_holder.opening import open_store
from parties.key_holder.policy import POLICY
from parties.key_holder.service import SERVICE_NAME, KeyHolderService, Office
from parties.key_holder.settings import Settings
from parties.presence import Presence, PublicKeys, attended
from parties.registry import IDEMPOTENT, LARGEST_ANSWER, GrpcRegistry
from parties.standing import Standing
from protos.key_holder_pb2_grpc import add_KeyHolderServiceServicer_to_server

log = logging.getLogger(__name__)

_STORE_ISSUED: Final = "/keymixer.v1.ModelStoreService/StoreIssuedModel"


def main() -> int:
    """Serve until told to stop; the exit code says how it went."""
    arguments = _parse()
    logs.configure()
    try:
        if arguments.command == "rewrap":
            return rewrap_and_tell(arguments.folder, arguments.to)
        with running(arguments.folder) as server:
            server.wait()
    except KeymixerError as error:
        log.critical("cannot run", extra={"kind": error.kind, "why": str(error)})
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m parties.key_holder")
    parser.add_argument(
        "command", nargs="?", choices=("serve", "rewrap"), default="serve"
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--to", metavar="URL", help="rewrap: file:, env: or exec:")
    arguments = parser.parse_args()
    if (arguments.command == "rewrap") != bool(arguments.to):
        parser.error("rewrap needs --to, and nothing else takes it")
    return arguments


@contextmanager
def running(folder: Path) -> Iterator[RunningServer]:
    """A key holder that serves; the folder's `address` says where."""
    settings, identity = Settings.read(folder), load_identity(folder)
    with ExitStack() as stack:
        ports = _ports(settings, identity, stack)
        office = _office(folder, settings, identity, ports, stack)
        standing = Standing(ports.registry.standing, settings.max_staleness_s)
        peers = (settings.orchestrator, settings.inference_servers[0])
        named = only(*(peer.spiffe_id for peer in peers))
        admit = every(named, in_good_standing(standing))
        server = stack.enter_context(_serving(office, settings, identity, admit))
        write_public(folder / "address", server.address.encode())
        keys = PublicKeys(office.signing_key.public_key().public_bytes_raw())
        presence = Presence(ports.registry, str(identity.spiffe), keys)
        office.reporter.report("key_holder.started", {"address": server.address})
        stack.enter_context(attended(presence, standing, server.set_serving))
        yield server


@dataclass(frozen=True, slots=True)
class _Ports:
    registry: GrpcRegistry
    audit: GrpcAuditLog
    inference_server: GrpcInferenceServer


def _ports(settings: Settings, identity: Identity, stack: ExitStack) -> _Ports:
    def channel(peer: Peer, retries: frozenset[str]) -> grpc.Channel:
        opened = open_channel(
            peer.address,
            identity,
            peer.spiffe_id,
            max_message_bytes=LARGEST_ANSWER,
            retries=retries,
        )
        return stack.enter_context(opened)

    orchestrator = channel(settings.orchestrator, IDEMPOTENT)
    # Among several, one that is away is not waited for.
    alone = len(settings.inference_servers) == 1
    retries = frozenset({_STORE_ISSUED}) if alone else frozenset()
    servers = [channel(each, retries) for each in settings.inference_servers]
    return _Ports(
        GrpcRegistry(orchestrator),
        GrpcAuditLog(orchestrator),
        GrpcInferenceServer(servers),
    )


def _office(
    folder: Path,
    settings: Settings,
    identity: Identity,
    ports: _Ports,
    stack: ExitStack,
) -> Office:
    store = stack.enter_context(open_store(folder, settings.database))
    vault, signing_key = store.unlocked(settings.kek), ensure_signing_key(folder)
    return Office(
        vault=vault,
        delivery=Delivery(
            vault,
            ports.registry,
            signing_key,
            identity.spiffe,
            settings.envelope_lifetime_s,
            recovery_key=settings.recovery_key,
        ),
        signing_key=signing_key,
        registry=ports.registry,
        inference_server=ports.inference_server,
        audit=ports.audit,
        reporter=stack.enter_context(Reporter(ports.audit)),
    )


@contextmanager
def _serving(
    office: Office, settings: Settings, identity: Identity, admit: Check
) -> Iterator[RunningServer]:
    def register(server: grpc.Server) -> None:
        add_KeyHolderServiceServicer_to_server(KeyHolderService(office), server)

    with serve(
        identity,
        POLICY,
        register,
        [SERVICE_NAME],
        settings.listen,
        on_refusal=office.reporter.tell,
        federation=settings.federation,
        admit=admit,
    ) as server:
        yield server


if __name__ == "__main__":
    sys.exit(main())
