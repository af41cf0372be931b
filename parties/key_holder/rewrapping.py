"""Rewrap what a key holder's folder keeps, and have the audit log told of it."""

from pathlib import Path

from core.rpc.channel import open_channel
from core.rpc.identity import load_identity
from parties.audit import GrpcAuditLog, event_name, record_event
from parties.key_holder.opening import open_store
from parties.key_holder.rewrap import Rewrapped, rewrap
from parties.key_holder.settings import Settings

REWRAPPED = "keys.rewrapped"


def rewrap_folder(folder: Path, url: str) -> Rewrapped:
    """Have all that the key holder of that folder keeps under the KEK at `url`."""
    settings = Settings.read(folder)
    with open_store(folder, settings.database) as store:
        return rewrap(
            store.database,
            store.keychain,
            url,
            entropy=store.entropy,
            now_ms=store.clock(),
        )


def record_rewrap(folder: Path, done: Rewrapped) -> None:
    """Record it, as the key holder; repeated until it is recorded, it is recorded once.

    A rewrap that goes on after a repair has other counts, and is recorded by itself.

    Raises:
        AuditUnavailable: the orchestrator did not take it.
    """
    settings, identity = Settings.read(folder), load_identity(folder)
    peer = settings.orchestrator
    facts = {
        "kek": done.kek_id,
        "key_versions": str(done.key_versions),
        "embeddings": str(done.embeddings),
        "broken": str(len(done.broken)),
    }
    with open_channel(peer.address, identity, peer.spiffe_id) as channel:
        record_event(
            GrpcAuditLog(channel),
            REWRAPPED,
            caller="",
            subject=facts,
            event_id=event_name(_name(done), REWRAPPED),
        )


def _name(done: Rewrapped) -> str:
    counts = (done.key_versions, done.embeddings, len(done.broken))
    return "/".join(map(str, (done.kek_id, done.since_ms, *counts)))
