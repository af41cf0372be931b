"""The events of a scenario: rotation under traffic, revocation, refusals."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from core.errors import Unavailable
from core.rpc.identity import INFERENCE_SERVER, dns_name
from orchestrator.federation import (
    AskWithKeyOf,
    CallWithoutCertificate,
    Event,
    Revoke,
    Rotate,
    TrafficEvent,
    UnderTraffic,
    Wait,
)
from orchestrator.simulation.setup import (
    Stage,
    agree,
    ask_owner,
    wait_until_ready,
)
from orchestrator.simulation.traffic import under_traffic
from protos import open_inference_pb2
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub

DESTROYED_S = 60.0


def play(stage: Stage) -> None:
    """Let the scenario's events happen, one after the other."""
    for event in stage.workspace.federation.simulation.timeline:
        _PLAYERS[type(event)](stage, event)
        stage.tell_news()


def rotate(stage: Stage, event: Rotate) -> None:
    """Rotate an owner's key while the owner keeps asking; then try the old version."""
    owner = str(stage.workspace.owner(event.owner))
    old = _primary(stage, owner)
    meanwhile: list[TrafficEvent] = [event, Wait(event="wait", until="destroyed")]
    asks = UnderTraffic(event="under_traffic", owners=[event.owner], events=meanwhile)
    under_traffic(stage, asks)
    refuse(stage, event.owner, _key_id(stage, owner), old, "KeyRefused")


def revoke(stage: Stage, event: Revoke) -> None:
    """Revoke an owner's key; its very next request is refused."""
    owner = str(stage.workspace.owner(event.owner))
    version = _primary(stage, owner)
    with stage.operator() as connected:
        revoked = connected.revoke_key(owner, stage.model.name, event.reason)
        agree(stage, revoked.approval_id)
    key_id = _key_id(stage, owner)
    refuse(stage, event.owner, key_id, version, "KeyRefused")
    _wait_until_destroyed(stage, key_id, version)


def ask_with_key_of(stage: Stage, event: AskWithKeyOf) -> None:
    """An owner asks with another owner's key and is refused."""
    other = str(stage.workspace.owner(event.other))
    refuse(
        stage, event.owner, _key_id(stage, other), _primary(stage, other), "NotAllowed"
    )


def call_without_certificate(stage: Stage, _: CallWithoutCertificate) -> None:
    """Somebody without a certificate calls; the handshake fails.

    The server must answer the operator just before: otherwise a dead one would pass.
    """
    wait_until_ready(stage, INFERENCE_SERVER)
    server = stage.workspace.federation.only(INFERENCE_SERVER)
    authority = (stage.workspace.folder(server) / "ca.pem").read_bytes()
    options = [("grpc.ssl_target_name_override", dns_name(server))]
    address = stage.workspace.address(INFERENCE_SERVER)
    trust = grpc.ssl_channel_credentials(root_certificates=authority)
    with grpc.secure_channel(address, trust, options=options) as channel:
        try:
            GRPCInferenceServiceStub(channel).ServerLive(
                open_inference_pb2.ServerLiveRequest(), timeout=5.0
            )
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            _count_refusal(stage, "NoCertificate", "outsider", "somebody")
        else:
            raise Unavailable("a call without a certificate was answered")


def refuse(stage: Stage, owner: str, key_id: str, version: int, expected: str) -> None:
    """Ask with a key that must be refused, and see that it is, for the right reason."""
    events = ask_owner(
        stage,
        owner,
        "ask-with-key",
        *("--key-id", key_id, "--version", str(version)),
    )
    refusal = events[-1].get("refusal", "")
    if refusal != expected:
        raise Unavailable(
            f"{owner} asked with {key_id} version {version}: expected {expected}, "
            f"got {refusal or 'an answer'}"
        )
    _count_refusal(stage, refusal, "data-owner", owner, f"{key_id} version {version}")


def _count_refusal(
    stage: Stage, kind: str, role: str, party: str, with_: str = "no certificate"
) -> None:
    refused: dict[str, int] = stage.reports.setdefault("refused", {})
    refused[kind] = refused.get(kind, 0) + 1
    # What led to it comes first in the story.
    stage.tell_news()
    stage.narrator.says(role, party, f"asks with {with_}: refused, {kind}")


def _primary(stage: Stage, owner: str) -> int:
    with stage.operator() as connected:
        versions = [
            k for k in connected.key_versions() if k.owner == owner and k.primary
        ]
    if not versions:
        raise Unavailable(f"{owner} has no primary key version")
    return versions[0].version


def _key_id(stage: Stage, owner: str) -> str:
    with stage.operator() as connected:
        found = [k.key_id for k in connected.key_versions() if k.owner == owner]
    if not found:
        raise Unavailable(f"{owner} has no key")
    return found[0]


def _wait_until_destroyed(stage: Stage, key_id: str, version: int) -> None:
    deadline = time.monotonic() + DESTROYED_S
    with stage.operator() as connected:
        while time.monotonic() < deadline:
            states = {(k.key_id, k.version): k.state for k in connected.key_versions()}
            if states.get((key_id, version)) == "destroyed":
                return
            time.sleep(0.1)
    raise Unavailable(f"{key_id} version {version} was not destroyed in time")


_PLAYERS: Mapping[type[Event], Callable[[Stage, Any], None]] = {
    Rotate: rotate,
    Revoke: revoke,
    AskWithKeyOf: ask_with_key_of,
    CallWithoutCertificate: call_without_certificate,
    UnderTraffic: under_traffic,
}
