"""A registry on a real database, without workflows: a test moves its keys by hand."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    OPERATOR,
    ORCHESTRATOR,
    SpiffeId,
)
from orchestrator.audit.erasure import notes_of
from orchestrator.audit.notes import put_back
from orchestrator.audit.records import Entry, parse_entry
from orchestrator.audit.writer import AuditLog, log_size
from orchestrator.registry import store
from orchestrator.registry.database import open_database
from orchestrator.registry.lifecycle import IssuedState, KeyAction, KeyState
from orchestrator.registry.models import (
    Grant,
    IssuedModel,
    Key,
    KeyVersion,
    Model,
    ModelVersion,
    Party,
)
from orchestrator.registry.store import Change, Registry
from tests.fakes import FakeClock
from tests.unit.orchestrator.rows import DIGEST, key_version, model_version

HUB_ID = SpiffeId("demo", "hub", ORCHESTRATOR)
OPERATOR_ID = SpiffeId("demo", "desk", OPERATOR)
VAULT_ID = SpiffeId("demo", "vault", KEY_HOLDER)
CLOUD_ID = SpiffeId("demo", "cloud", INFERENCE_SERVER)
LAB_ID = SpiffeId("demo", "lab", MODEL_PROVIDER)
OWNERS = tuple(SpiffeId("demo", name, DATA_OWNER) for name in ("alder", "birch"))
ALDER_ID, BIRCH_ID = OWNERS
MODEL = "cells"
KINDS = {
    KeyAction.ACTIVATE: "key.activated",
    KeyAction.RETIRE: "key.retiring",
}


@dataclass
class Ledger:
    """Every owner may use the one model, and has a key for it without any version."""

    registry: Registry
    clock: FakeClock = field(default_factory=FakeClock)

    @contextmanager
    def change(self, actor: SpiffeId = OPERATOR_ID) -> Iterator[Change]:
        with self.registry.change(actor) as change:
            yield change

    def add_version(self, owner: SpiffeId) -> int:
        """A drawn and confirmed version of an owner's key, not active yet."""
        with self.change() as change:
            key = _key_of(change, owner)
            number = len(store.versions_of(change.session, key)) + 1
            version = key_version(key, number, state=KeyState.PRE_ACTIVE)
            change.session.add(version)
            change.session.add(_issued(change, version))
            store.record_key(change, version, "key.created")
        return number

    def move(self, owner: SpiffeId, number: int, action: KeyAction) -> None:
        """Move a version; one that retires does so within ten seconds."""
        with self.change() as change:
            version = _version(change, owner, number)
            if action is KeyAction.RETIRE:
                version.retire_at_ms = change.now_ms + 10_000
            kind = KINDS.get(action, f"key.{action}")
            store.move(change, version, action, kind)

    def active(self, owner: SpiffeId = ALDER_ID) -> int:
        number = self.add_version(owner)
        self.move(owner, number, KeyAction.ACTIVATE)
        return number

    def revoke(self, party: SpiffeId, reason: str = "left") -> None:
        with self.change() as change:
            store.revoke_party(change, str(party), reason)

    def entries(self, kind: str = "") -> list[Entry]:
        """What was recorded, as it was hashed."""
        found = self.registry.log.entries(0, 10_000, kind=kind)
        return [parse_entry(entry.body) for entry in found]

    def reason(self, entry: Entry) -> str:
        """What was typed with a record."""
        with self.registry.database.reading() as session:
            note = notes_of(session, [entry.index]).get(entry.index)
        return str(put_back(entry.subject, note, entry.index)["reason"])

    def images_used(self, owner: SpiffeId = ALDER_ID, number: int = 1) -> int:
        with self.change() as change:
            return _version(change, owner, number).images_used


@contextmanager
def open_ledger(folder: Path, url: str = "") -> Iterator[Ledger]:
    """The ledger of a folder; in an empty one it is made."""
    clock = FakeClock()
    where = url or f"sqlite:///{folder / 'registry.db'}"
    with open_database(where) as database:
        pen = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
        log = AuditLog(database, "demo/audit", pen, clock)
        ledger = Ledger(Registry(database, log, clock, HUB_ID), clock)
        with ledger.registry.own_change() as change:
            if log_size(change.session) == 0:
                _begin(change)
        yield ledger


@contextmanager
def copied_ledger(template: Path, folder: Path) -> Iterator[Ledger]:
    """A ledger of its own, like the template's, which nobody has open."""
    shutil.copytree(template, folder / "ledger")
    with open_ledger(folder / "ledger") as ledger:
        yield ledger


def key_id(owner: SpiffeId) -> str:
    return f"{owner.organisation}.{MODEL}"


def _begin(change: Change) -> None:
    for spiffe in (HUB_ID, OPERATOR_ID, VAULT_ID, CLOUD_ID, LAB_ID, *OWNERS):
        store.enrol(change, spiffe)
    model = Model(name=MODEL, provider=_party(change, LAB_ID))
    change.session.add(model_version(model))
    for owner in OWNERS:
        party = _party(change, owner)
        change.session.add(Grant(owner=party, model=model, created_at_ms=1))
        change.session.add(
            Key(
                key_id=key_id(owner),
                owner=party,
                model=model,
                patch_size=4,
                channels=3,
            )
        )


def _issued(change: Change, version: KeyVersion) -> IssuedModel:
    model = change.session.scalars(select(ModelVersion)).one()
    return IssuedModel(
        key_version=version,
        model_version=model,
        digest=DIGEST,
        statement=b"{}",
        signature=bytes(64),
        state=IssuedState.LIVE,
        created_at_ms=1,
    )


def _party(change: Change, spiffe: SpiffeId) -> Party:
    return store.active_party(change.session, str(spiffe))


def _key_of(change: Change, owner: SpiffeId) -> Key:
    return change.session.scalars(select(Key).where(Key.key_id == key_id(owner))).one()


def _version(change: Change, owner: SpiffeId, number: int) -> KeyVersion:
    return store.key_version(change.session, key_id(owner), number)
