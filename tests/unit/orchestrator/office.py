"""An orchestrator without a wire: a real database and log, and fake parties."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import event, select

from core.architecture import Architecture
from core.card import Card
from core.database import Database
from core.manifest import Manifest
from core.preprocessing import Preprocessing
from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    OPERATOR,
    ORCHESTRATOR,
    SpiffeId,
)
from core.rpc.policy import acting_as
from core.statements import MANIFEST, sign
from orchestrator.audit.erasure import notes_of
from orchestrator.audit.notes import put_back
from orchestrator.audit.records import Entry, parse_entry
from orchestrator.audit.service import AuditService
from orchestrator.audit.writer import AuditLog
from orchestrator.federation import Policies
from orchestrator.registry import store
from orchestrator.registry.database import open_database
from orchestrator.registry.models import IssuedModel, Job, KeyVersion
from orchestrator.registry.store import Change, Registry
from orchestrator.workflows import (
    holding,
    jobs,
    keys,
    recovery,
    release,
    rotation,
)
from orchestrator.workflows.engine import Engine
from orchestrator.workflows.peers import InferenceServer, KeyHolder, Peers
from orchestrator.workflows.recovery import Compromise
from orchestrator.workflows.rotation import Rotation, Wish
from protos import audit_pb2
from tests.fakes import FakeClock, FakeInferenceServer, FakeKeyHolder, fake_context

FEDERATION = "clinics.example"
MODEL = "cells"


def spiffe(organisation: str, role: str) -> SpiffeId:
    return SpiffeId(FEDERATION, organisation, role)


ORCHESTRATOR_ID = spiffe("hub", ORCHESTRATOR)
OPERATOR_ID = spiffe("hub", OPERATOR)
KEY_HOLDER_ID = spiffe("vault", KEY_HOLDER)
SERVER_ID = spiffe("cloud", INFERENCE_SERVER)
PROVIDER_ID = spiffe("lab", MODEL_PROVIDER)
RIVAL_ID = spiffe("rival", MODEL_PROVIDER)
ALDER_ID = spiffe("alder", DATA_OWNER)
BIRCH_ID = spiffe("birch", DATA_OWNER)
EVERYBODY = (
    *(ORCHESTRATOR_ID, OPERATOR_ID, KEY_HOLDER_ID, SERVER_ID),
    *(PROVIDER_ID, RIVAL_ID, ALDER_ID, BIRCH_ID),
)

PROVIDER_KEY = Ed25519PrivateKey.from_private_bytes(b"p" * 32)
RIVAL_KEY = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
LOG_KEY = Ed25519PrivateKey.from_private_bytes(b"l" * 32)


@dataclass
class Office:
    """Everything a test of the orchestrator works with."""

    folder: Path
    database: Database
    clock: FakeClock
    registry: Registry
    server: FakeInferenceServer
    key_holder: FakeKeyHolder
    # Nothing can be taken back once it is revoked, unless a test wants it.
    policies: Policies = field(default_factory=lambda: Policies(destroy_window_s=0.0))

    @contextmanager
    def change(self, caller: SpiffeId = OPERATOR_ID) -> Iterator[Change]:
        with self.registry.change(caller) as change:
            yield change

    def engine(
        self,
        key_holder: KeyHolder | None = None,
        inference_server: InferenceServer | None = None,
        **more: Any,
    ) -> Engine:
        """A fresh one, as after a start."""
        peers = Peers(
            key_holder or self.key_holder,
            inference_server or self.server,
            str(KEY_HOLDER_ID),
        )
        return Engine(self.registry, peers, self.policies, **more)

    def settle(self, engine: Engine | None = None) -> None:
        """Work until nothing is due."""
        engine = engine or self.engine()
        while engine.run_once():
            pass

    def confirm(self, key_id: str, version: int) -> None:
        with self.change(KEY_HOLDER_ID) as change:
            keys.confirm(change, key_id, version)

    def grant(self, owner: SpiffeId = ALDER_ID) -> None:
        with self.change() as change:
            keys.grant(change, str(owner), MODEL)

    def create(self, owner: SpiffeId = ALDER_ID) -> tuple[str, int]:
        """Ask for a first key; returns its id and version."""
        with self.change() as change:
            return _made(keys.create(change, self.policies, str(owner), MODEL))

    def rotate(
        self, owner: SpiffeId | None = ALDER_ID, overlap_s: float = 60.0, **more: Any
    ) -> list[Rotation]:
        """Ask for the next version of one owner's key, or of all."""
        wish = Wish(MODEL, overlap_s, str(owner or ""), **more)
        with self.change() as change:
            return rotation.rotate(change, self.policies, wish)

    def revoke(
        self, owner: SpiffeId = ALDER_ID, reason: str = "lost"
    ) -> tuple[str, list[int]]:
        with self.change() as change:
            return keys.revoke(change, self.policies, str(owner), MODEL, reason)

    def suspend(
        self, owner: SpiffeId = ALDER_ID, reason: str = "asked for"
    ) -> tuple[str, list[int]]:
        with self.change() as change:
            return holding.suspend(change, str(owner), MODEL, reason)

    def resume(self, owner: SpiffeId = ALDER_ID) -> tuple[str, list[int]]:
        with self.change() as change:
            return holding.resume(change, str(owner), MODEL)

    def restore(self, key_id: str, version: int) -> None:
        with self.change() as change:
            holding.restore(change, key_id, version)

    def compromise(
        self, owner: SpiffeId = ALDER_ID, reason: str = "found on the web"
    ) -> Compromise:
        with self.change() as change:
            return recovery.report(change, self.policies, str(owner), MODEL, reason)

    def active_key(self, owner: SpiffeId = ALDER_ID) -> str:
        """Grant, create, draw, confirm, issue: a key that may be used."""
        self.grant(owner)
        key_id, version = self.create(owner)
        self.bring_into_use(key_id, version)
        return key_id

    def bring_into_use(self, key_id: str, version: int) -> None:
        """Have a version drawn, let its owner confirm it, and have it sent."""
        self.settle()
        self.confirm(key_id, version)
        self.settle()

    def entries(self, kind: str = "") -> list[Entry]:
        """What was recorded, with what was typed put back as a reader sees it."""
        found = self.registry.log.entries(0, 10_000, kind=kind)
        with self.database.reading() as session:
            notes = notes_of(session, [entry.index for entry in found])
        entries = [parse_entry(entry.body) for entry in found]
        return [
            replace(e, subject=put_back(e.subject, notes.get(e.index), e.index))
            for e in entries
        ]

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries()]

    def states(self) -> dict[tuple[str, int], str]:
        """The state of every key version."""
        with self.database.reading() as session:
            query = store.select_key_versions()
            rows = session.scalars(query).all()
            return {(row.key.key_id, row.version): row.state for row in rows}

    def primaries(self) -> list[tuple[str, int]]:
        with self.database.reading() as session:
            query = store.select_key_versions().where(KeyVersion.is_primary)
            rows = session.scalars(query).all()
            return [(row.key.key_id, row.version) for row in rows]

    def issued(self) -> dict[tuple[str, int, int], str]:
        """The state of every issued model, by key, key version and model version."""
        with self.database.reading() as session:
            rows = session.scalars(store.select_issued_models()).all()
            return {
                (
                    row.key_version.key.key_id,
                    row.key_version.version,
                    row.model_version.version,
                ): row.state
                for row in rows
            }

    def jobs(self, *, open_only: bool = False) -> list[tuple[str, str, str, str]]:
        """Kind, subject, state and step of every job, oldest first."""
        with self.database.reading() as session:
            found = jobs.listed(
                session, open_only=open_only, ids=(), before=0, limit=1000
            )
            return [(j.kind, j.subject, j.state, j.step) for j in reversed(found)]

    def open_rows(self) -> list[Job]:
        """The open jobs, as they stand."""
        with self.database.reading() as session:
            return list(jobs.open_jobs(session))

    def open_job(self, kind: str) -> Job:
        """The one open job of a kind, as it stands."""
        (found,) = [job for job in self.open_rows() if job.kind == kind]
        return found

    def release(self, seed: int = 1, **more: Any) -> int:
        """Register another version and make it the champion; returns its number."""
        version = register_model(self, seed=seed, **more)
        self.move_champion(version)
        return version

    def move_champion(self, version: int, name: str = MODEL) -> None:
        self.move_alias(store.CHAMPION, version, name)

    def move_alias(self, alias: str, version: int, name: str = MODEL) -> None:
        """As the registry's service does it: the alias, and what follows."""
        with self.change(PROVIDER_ID) as change:
            release.point(change, self.policies, name, alias, version)

    def model_digest(self, version: int = 1) -> str:
        """What the log names a release by: the SHA-256 of its manifest, in hex."""
        with self.change() as change:
            found = store.model_version(change.session, MODEL, version)
            return hashlib.sha256(found.manifest).hexdigest()

    def answer(
        self, images: int, owner: SpiffeId = ALDER_ID, version: int = 1, model: int = 1
    ) -> str:
        """Have an answer released under a key version; why not, if it is not."""
        record = audit_pb2.InferenceRecord(
            request_id="r",
            owner=str(owner),
            key_id=f"{owner.organisation}.{MODEL}",
            key_version=version,
            model=MODEL,
            model_version=model,
            images=images,
            request_digest=b"q" * 32,
            result_digest=b"a" * 32,
        )
        request = audit_pb2.RecordInferencesRequest(records=[record])
        service = AuditService(self.registry)
        with acting_as(SERVER_ID):
            (verdict,) = service.RecordInferences(request, fake_context()).verdicts
        return verdict.refusal

    def issued_rows(self) -> int:
        with self.database.reading() as session:
            return len(session.scalars(select(IssuedModel.id)).all())


@contextmanager
def open_office(folder: Path, url: str = "") -> Iterator[Office]:
    """Open an office on the database at `url`, or on SQLite in `folder`."""
    clock = FakeClock()
    with open_database(url or f"sqlite:///{folder / 'registry.db'}") as database:
        if not url:
            _do_not_wait_for_the_disk(database)
        log = AuditLog(database, f"{FEDERATION}/audit", LOG_KEY, clock)
        registry = Registry(database, log, clock, ORCHESTRATOR_ID)
        server = FakeInferenceServer()
        yield Office(folder, database, clock, registry, server, FakeKeyHolder(server))


def _do_not_wait_for_the_disk(database: Database) -> None:
    """No test here cuts the power, and the disk would take most of the time."""

    def relax(connection: Any, _entry: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(database._engine, "connect", relax)
    database._engine.dispose()


def make_template(folder: Path) -> None:
    """A federation with enrolled parties and one registered model, to be copied."""
    with open_office(folder) as office:
        furnish(office)


def furnish(office: Office) -> None:
    """Enrol everybody, and register their keys and a model."""
    with office.registry.own_change() as change:
        for party in EVERYBODY:
            store.enrol(change, party)
    register_keys(office, PROVIDER_ID, PROVIDER_KEY)
    register_keys(office, RIVAL_ID, RIVAL_KEY)
    register_keys(office, KEY_HOLDER_ID, office.key_holder.signing_key)
    register_model(office)


@contextmanager
def copied_office(template: Path, folder: Path) -> Iterator[Office]:
    """An office of its own, like the template's."""
    shutil.copytree(template, folder)
    with open_office(folder) as office:
        yield office


def _made(job: Job) -> tuple[str, int]:
    assert job.key_version is not None
    return job.key_version.key.key_id, job.key_version.version


def register_keys(office: Office, party: SpiffeId, key: Ed25519PrivateKey) -> None:
    with office.change(party) as change:
        public = key.public_key().public_bytes_raw()
        store.register_public_keys(change, public, b"")


def register_model(
    office: Office,
    name: str = MODEL,
    *,
    patch_size: int = 4,
    parent: int | None = None,
    seed: int = 0,
    embedding: str = "a",
    public: bool = False,
    card: Card | None = None,
    size: int = 32,
) -> int:
    """Register a release by the provider; returns its version."""
    manifest = manifest_bytes(
        name,
        patch_size=patch_size,
        parent=parent,
        seed=seed,
        embedding=embedding,
        public=public,
        card=card,
        size=size,
    )
    with office.change(PROVIDER_ID) as change:
        made = store.register_model_version(
            change, manifest, sign(PROVIDER_KEY, MANIFEST, manifest)
        )
        release.registered(change, made)
        return made.version


def manifest_bytes(
    name: str = MODEL,
    *,
    patch_size: int = 4,
    parent: int | None = None,
    seed: int = 0,
    embedding: str = "a",
    public: bool = False,
    card: Card | None = None,
    size: int = 32,
) -> bytes:
    shape = Architecture(
        hidden=8, depth=1, patch_size=patch_size, classes=2, height=size, width=size
    )
    return Manifest(
        name=name,
        architecture=shape,
        preprocessing=Preprocessing(size, size, 3, (0.5,) * 3, (0.25,) * 3),
        classes=("healthy", "ill"),
        metrics={"test_accuracy": 0.75},
        lineage={"seed": seed} | ({} if parent is None else {"parent": parent}),
        embedding_digest=embedding * 64,
        backbone_digest="b" * 64,
        public_embedding=public,
        leakage=card,
    ).to_bytes()
