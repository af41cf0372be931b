"""Callers that are no owners: of another authority, or of another role."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from core.rpc.errors import remote_errors
from core.rpc.identity import (
    Identity,
    create_identity,
    dns_name,
    install_certificate,
    load_identity,
)
from orchestrator.certificates import DevelopmentCA
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.soak.site import DEADLINE_S, Site
from tests.soak.traffic import Ending, Turn, ended


@dataclass(frozen=True, slots=True)
class Strangers:
    """The first get no connection, the others no answer."""

    name: str = "strangers"
    callers: int = 1
    pause_s: float = 0.2
    within_s: float = 2 * DEADLINE_S
    expected: frozenset[str] = frozenset({"PeerUnavailable", "NotAllowed"})

    @contextmanager
    def opened(self, site: Site, caller: int) -> Iterator[Turn]:
        with tempfile.TemporaryDirectory() as folder:
            unknown = _of_another_authority(site, Path(folder))
            operator = load_identity(site.workspace.operator_folder())
            yield lambda: [
                _ask(site, unknown, "PeerUnavailable"),
                _ask(site, operator, "NotAllowed"),
            ]


def _ask(site: Site, identity: Identity, kind: str) -> Ending:
    def ask() -> None:
        with _channel(site, identity) as channel, remote_errors("inference server"):
            request = site.calm[0].question(1).request
            GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=DEADLINE_S)

    found = ended(ask)
    assert kind == found.kind, f"{kind} is what it should be, not {found.kind}"
    return found


def _channel(site: Site, identity: Identity) -> grpc.Channel:
    """As gRPC has it: ours would not even ask with such a certificate."""
    host, port = site.address
    credentials = grpc.ssl_channel_credentials(
        identity.ca, identity.private_key, identity.certificate
    )
    options = [
        ("grpc.ssl_target_name_override", dns_name(site.server)),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.secure_channel(f"{host}:{port}", credentials, options)


def _of_another_authority(site: Site, folder: Path) -> Identity:
    """The name of an owner, signed by somebody else; it trusts the real servers."""
    owner = site.workspace.owner(site.calm[0].name)
    others = DevelopmentCA.create(folder / "ca")
    signed = others.sign(create_identity(folder / "home", owner), owner)
    install_certificate(folder / "home", signed, others.ca_pem)
    real = DevelopmentCA.load(site.workspace.root / "ca")
    return replace(load_identity(folder / "home"), ca=real.ca_pem)
