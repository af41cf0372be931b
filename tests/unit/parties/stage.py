"""A small cast for the parties' tests: names, stand-ins, and a release."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.architecture import Architecture
from core.convmixer import ConvMixer, initialise, take_apart
from core.errors import AuditUnavailable, NotFound, PeerUnavailable
from core.manifest import Manifest
from core.preprocessing import Preprocessing
from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    ORCHESTRATOR,
    SpiffeId,
)
from core.sealing import SealingKey
from core.statements import MANIFEST, sign
from core.wire import dump_tensors, file_digest
from protos import audit_pb2, registry_pb2

ORCHESTRATOR_ID = SpiffeId("demo", "consortium", ORCHESTRATOR)
KEY_HOLDER_ID = SpiffeId("demo", "keyhouse", KEY_HOLDER)
SERVER_ID = SpiffeId("demo", "cloudrow", INFERENCE_SERVER)
PROVIDER_ID = SpiffeId("demo", "modelworks", MODEL_PROVIDER)
OTHER_PROVIDER_ID = SpiffeId("demo", "rival", MODEL_PROVIDER)
OWNER_ID = SpiffeId("demo", "ward-one", DATA_OWNER)
OTHER_OWNER_ID = SpiffeId("demo", "ward-two", DATA_OWNER)

MODEL = "cells"
TINY = Architecture(
    hidden=8, depth=1, kernel_size=3, patch_size=4, channels=3, height=8, width=8
)


class Entropy:
    """Bytes that are different at every call, and that a test can look for."""

    def __init__(self) -> None:
        self.given: list[bytes] = []
        self._random = np.random.default_rng(1)

    def __call__(self, count: int) -> bytes:
        self.given.append(self._random.bytes(count))
        return self.given[-1]


@dataclass
class FakeRegistry:
    """The registry in memory."""

    parties: dict[str, registry_pb2.Party] = field(default_factory=dict)
    versions: list[registry_pb2.ModelVersion] = field(default_factory=list)
    issued: list[registry_pb2.IssuedModel] = field(default_factory=list)
    confirmed: list[tuple[str, int]] = field(default_factory=list)
    key_states: dict[tuple[str, int], str] = field(default_factory=dict)
    away: bool = False

    def enrol(
        self,
        who: SpiffeId,
        signing_key: Ed25519PrivateKey | None = None,
        sealing_key: SealingKey | None = None,
    ) -> None:
        self.parties[str(who)] = registry_pb2.Party(
            spiffe_id=str(who),
            role=who.role,
            state="active",
            signing_key=public(signing_key) if signing_key else b"",
            sealing_key=sealing_key.public_bytes() if sealing_key else b"",
        )

    def register_public_keys(self, signing_key: bytes, sealing_key: bytes) -> None:
        raise NotImplementedError

    def party(self, spiffe_id: str) -> registry_pb2.Party:
        if spiffe_id not in self.parties:
            raise NotFound(spiffe_id)
        return self.parties[spiffe_id]

    def model_version(self, model: str, version: int) -> registry_pb2.ModelVersion:
        for candidate in self.versions:
            if (candidate.name, candidate.version) == (model, version):
                return candidate
        raise NotFound(model)

    def issued_models(
        self, key_id: str = "", key_version: int = 0
    ) -> list[registry_pb2.IssuedModel]:
        return [
            issued
            for issued in self.issued
            if (key_id or issued.key_id) == issued.key_id
            and (key_version or issued.key_version) == issued.key_version
        ]

    def standing(self, since: int) -> registry_pb2.ListStandingResponse:
        """All of it at each call; what is issued is active unless `key_states` say."""
        return registry_pb2.ListStandingResponse(
            revision=since + 1,
            parties=[
                registry_pb2.PartyStanding(spiffe_id=party.spiffe_id, state=party.state)
                for party in self.parties.values()
            ],
            keys=[
                registry_pb2.KeyStanding(
                    key_id=issued.key_id,
                    version=issued.key_version,
                    owner=issued.owner,
                    model=issued.model,
                    state=self.key_states.get(
                        (issued.key_id, issued.key_version), "active"
                    ),
                )
                for issued in self.issued
            ],
        )

    def key_version(self, key_id: str, version: int) -> registry_pb2.KeyVersion:
        """Of any name, for what is drawn is not told to this registry."""
        if self.away:
            raise PeerUnavailable("away")
        return registry_pb2.KeyVersion(
            key_id=key_id,
            version=version,
            state=self.key_states.get((key_id, version), "pre_active"),
        )

    def confirm_key_version(self, key_id: str, version: int) -> None:
        self.confirmed.append((key_id, version))


@dataclass
class FakeAuditLog:
    """The log in memory: it says `refusal` to every answer, or is away."""

    refusal: str = ""
    away: bool = False
    events: list[audit_pb2.Event] = field(default_factory=list)
    records: list[audit_pb2.InferenceRecord] = field(default_factory=list)

    def record_events(self, events: Sequence[audit_pb2.Event]) -> None:
        if self.away:
            raise AuditUnavailable("away")
        self.events.extend(events)

    def record_inferences(
        self,
        records: Sequence[audit_pb2.InferenceRecord],
        *,
        timeout_s: float | None = None,
    ) -> list[audit_pb2.InferenceVerdict]:
        if self.away:
            raise AuditUnavailable("away")
        self.records.extend(records)
        first = len(self.records) - len(records)
        return [
            audit_pb2.InferenceVerdict(index=first + i, refusal=self.refusal)
            for i in range(len(records))
        ]

    def of_kind(self, kind: str) -> list[dict[str, str]]:
        return [
            {**event.subject, "caller": event.caller}
            for event in self.events
            if event.kind == kind
        ]


@dataclass
class Release:
    """A model a provider made, in two halves, with its signed manifest."""

    architecture: Architecture = TINY
    seed: int = 0
    provider_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @cached_property
    def model(self) -> ConvMixer:
        model = initialise(self.architecture, self.seed)
        return model.eval()

    @cached_property
    def weight(self) -> np.ndarray:
        return take_apart(self.model)[0]

    @cached_property
    def embedding(self) -> bytes:
        return dump_tensors({"weight": self.weight})

    @cached_property
    def backbone(self) -> bytes:
        return dump_tensors(take_apart(self.model)[1])

    @property
    def manifest(self) -> Manifest:
        sizes = self.architecture
        return Manifest(
            name=MODEL,
            architecture=sizes,
            preprocessing=Preprocessing(
                height=sizes.height,
                width=sizes.width,
                channels=sizes.channels,
                mean=(0.5,) * sizes.channels,
                std=(0.25,) * sizes.channels,
            ),
            classes=tuple(f"class {i}" for i in range(sizes.classes)),
            metrics={},
            lineage={},
            embedding_digest=file_digest(self.embedding),
            backbone_digest=file_digest(self.backbone),
        )

    def register(
        self, registry: FakeRegistry, version: int = 1, **changes: Any
    ) -> None:
        """Put it in the registry as its provider would; `changes` falsify it."""
        registry.enrol(PROVIDER_ID, self.provider_key)
        manifest = self.manifest.to_bytes()
        fields: dict[str, Any] = {
            "name": MODEL,
            "version": version,
            "provider": str(PROVIDER_ID),
            "manifest": manifest,
            "signature": sign(self.provider_key, MANIFEST, manifest),
        }
        registry.versions.append(registry_pb2.ModelVersion(**{**fields, **changes}))


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def images(count: int, architecture: Architecture = TINY) -> np.ndarray:
    """Normalised images, float32 `[n, c, h, w]`."""
    shape = (count, architecture.channels, architecture.height, architecture.width)
    drawn = np.random.default_rng(7).normal(size=shape)
    return drawn.astype(np.float32)


class PatientContext:
    """What the services ask of gRPC's context: is an answer still wanted, and until?

    Who calls was read from it by the guard before.
    """

    def is_active(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return None


NO_CONTEXT: Any = PatientContext()
