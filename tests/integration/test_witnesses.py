"""Two owners and an orchestrator that shows two histories, or was put back.

Its registry, log and database are real; a test chooses which of them is shown.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from core.errors import KeymixerError
from core.orthogonal import GENERATOR
from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from core.rpc.settings import Peer
from core.sealing import SealingKey
from core.statements import MANIFEST, sign
from orchestrator.audit.cosignatures import cosignatures
from orchestrator.audit.service import AuditService
from orchestrator.registry import store
from orchestrator.registry.models import IssuedModel, ModelVersion
from orchestrator.registry.service import RegistryService
from orchestrator.registry.store import Registry
from orchestrator.workflows import issuing
from parties.data_owner.client import Channels, Client, OwnKeys
from parties.data_owner.errors import LogForkedError, LogRolledBackError
from parties.data_owner.keyring import KeyFacts, Keyring
from parties.data_owner.settings import OwnerSettings
from protos import audit_pb2_grpc, open_inference_pb2_grpc, registry_pb2_grpc
from protos import open_inference_pb2 as pb
from tests.unit.orchestrator.ledger import (
    CLOUD_ID,
    HUB_ID,
    LAB_ID,
    MODEL,
    OWNERS,
    VAULT_ID,
    Ledger,
    key_id,
    open_ledger,
)
from tests.unit.parties.stage import TINY, Release, public

IMAGES = np.zeros((2, TINY.height, TINY.width, TINY.channels), np.uint8)
PENS = {owner: Ed25519PrivateKey.generate() for owner in OWNERS}


@dataclass
class Stage:
    """What the orchestrator shows now, and what the inference server was sent."""

    folder: Path
    shown: Ledger
    asked: list[pb.ModelInferRequest] = field(default_factory=list)

    @contextmanager
    def client(self, owner: SpiffeId) -> Iterator[Client]:
        """An owner's client, started anew in the folder it always had."""
        keyring = Keyring(self.folder / owner.organisation)
        own = OwnKeys(PENS[owner], SealingKey.generate())
        with self._serving(owner) as channel:
            channels = Channels(channel, channel, channel)
            yield Client(_settings(), owner, keyring, own, channels)

    @contextmanager
    def _serving(self, owner: SpiffeId) -> Iterator[grpc.Channel]:
        """A server whose every caller is `owner`."""
        with ThreadPoolExecutor(1) as thread:
            server = grpc.server(thread)
            audit_pb2_grpc.add_AuditServiceServicer_to_server(
                _asked_by(owner, _Audit(self)), server
            )
            registry_pb2_grpc.add_RegistryServiceServicer_to_server(
                _asked_by(owner, _Registry(self)), server
            )
            open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
                _asked_by(owner, _SERVER(self)), server
            )
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
            server.stop(grace=None).wait()

    def answered(self) -> None:
        """Every owner is answered."""
        for owner in OWNERS:
            with self.client(owner) as client:
                assert len(client.predict(IMAGES).logits) == len(IMAGES)

    def refused(self, error: type[KeymixerError]) -> None:
        """Every owner refuses, and sends no image; so it does after a restart."""
        before = len(self.asked)
        for owner in OWNERS * 2:
            with self.client(owner) as client, pytest.raises(error):
                client.predict(IMAGES)
        assert before == len(self.asked)


class _Audit(AuditService):
    """The real one, on whatever is shown."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @property
    def _registry(self) -> Registry:  # type: ignore[override]
        return self._stage.shown.registry


class _Registry(RegistryService):
    """The real one, on whatever is shown."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @property
    def _registry(self) -> Registry:  # type: ignore[override]
        return self._stage.shown.registry


def _asked_by(owner: SpiffeId, service: Any) -> Any:
    """The service, every one of whose callers is `owner`."""

    class Asked:
        def __getattr__(self, name: str) -> Any:
            def method(request: Any, context: Any) -> Any:
                with acting_as(owner):
                    return getattr(service, name)(request, context)

            return method

    return Asked()


class _Server(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers zeros."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self._stage.asked.append(request)
        answer = pb.ModelInferResponse(
            id=request.id,
            model_name=request.model_name,
            model_version=request.model_version,
        )
        shape = (len(IMAGES), TINY.classes)
        answer.outputs.add(name="logits", datatype="FP32", shape=shape)
        answer.raw_output_contents.append(np.zeros(shape, "<f4").tobytes())
        answer.parameters["audit_nonce"].string_param = "00" * 32
        return answer


# The stubs call every method abstract; at run time a missing one is unimplemented.
_SERVER: Any = _Server


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """The orchestrator's folder, closed: each owner has a key and an issued model."""
    books = tmp_path / "books"
    books.mkdir()
    with open_ledger(books) as ledger:
        _release(ledger)
        for owner in OWNERS:
            with ledger.change(owner) as change:
                store.register_public_keys(change, public(PENS[owner]), b"")
            ledger.active(owner)
            _go_live(ledger, owner)
            _hand_over(tmp_path / owner.organisation, owner)
        ledger.registry.log.checkpoint()
    return books


def test_every_owner_notices_two_histories(tmp_path: Path, books: Path) -> None:
    shutil.copytree(books, tmp_path / "other")
    with open_ledger(books) as one, open_ledger(tmp_path / "other") as other:
        stage = Stage(tmp_path, one)
        stage.answered()
        _note(one, "this")
        stage.answered()

        stage.shown = other
        _note(other, "that")
        stage.refused(LogForkedError)
        _note(other, "and more")
        stage.refused(LogForkedError)

        stage.shown = one
        stage.answered()
        with one.change() as change:
            assert {one.registry.log.size()} == {
                row.size for row in cosignatures(change.session)
            }
        for owner in OWNERS:
            evidence = tmp_path / owner.organisation / "evidence"
            assert len(list(evidence.iterdir())) == 3


def test_every_owner_notices_a_restored_backup(tmp_path: Path, books: Path) -> None:
    """Put back with its side file, the orchestrator itself finds nothing wrong."""
    backup = shutil.copytree(books, tmp_path / "backup")
    with open_ledger(books) as ledger:
        _note(ledger, "what the backup lacks")
        Stage(tmp_path, ledger).answered()
    shutil.rmtree(books)
    shutil.copytree(backup, books)

    with open_ledger(books) as ledger:
        ledger.registry.log.check_against_last_checkpoint()
        stage = Stage(tmp_path, ledger)
        stage.refused(LogRolledBackError)
        for number in range(3):
            _note(ledger, f"anew {number}")
        stage.refused(LogForkedError)


def _note(ledger: Ledger, said: str) -> None:
    """Have the log grow, and sign what it holds, as it does every second."""
    with ledger.change() as change:
        change.record("noted", {"said": said})
    ledger.registry.log.checkpoint()


def _release(ledger: Ledger) -> None:
    """Have the registry list a release that its provider signed."""
    pen, manifest = Ed25519PrivateKey.generate(), Release().manifest.to_bytes()
    with ledger.change(LAB_ID) as change:
        store.register_public_keys(change, public(pen), b"")
        version = change.session.scalars(select(ModelVersion)).one()
        version.manifest = manifest
        version.manifest_digest = sha256(manifest).digest()
        version.signature = sign(pen, MANIFEST, manifest)


def _go_live(ledger: Ledger, owner: SpiffeId) -> None:
    with ledger.change() as change:
        version = store.key_version(change.session, key_id(owner), 1)
        version.is_primary = True
        issued = change.session.scalars(
            select(IssuedModel).where(IssuedModel.key_version_id == version.id)
        ).one()
        issued.live_index = issuing.record(change, issued, "issued.live")


def _hand_over(folder: Path, owner: SpiffeId) -> None:
    facts = KeyFacts(key_id(owner), 1, MODEL, GENERATOR, TINY.patch_size, TINY.channels)
    Keyring(folder).add(facts, owner.organisation.encode().ljust(32))


def _settings() -> OwnerSettings:
    hub, vault, cloud = (
        Peer("127.0.0.1:1", each) for each in (HUB_ID, VAULT_ID, CLOUD_ID)
    )
    return OwnerSettings("demo", hub, vault, cloud, refresh_s=0.0, witness_s=0.0)
