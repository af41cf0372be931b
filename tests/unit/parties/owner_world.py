"""The three parties an owner talks to, in this process, over loopback without TLS.

The key holder really seals and signs, and the inference server really computes: its
logits are the mean token, so `W A^T A x = W x` can be checked against plain NumPy.
"""

import hashlib
import hmac
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.architecture import Architecture
from core.canonical import canonical
from core.checkpoint import sign_checkpoint
from core.encoding import decode, uint8_step
from core.errors import (
    BudgetSpent,
    KeymixerError,
    KeyRefusedError,
    NotAllowedError,
    NotFound,
)
from core.keys import derive_key, verify_possession
from core.manifest import Manifest
from core.merkle import consistency_path, inclusion_path, leaf_hash, root
from core.orthogonal import GENERATOR
from core.preprocessing import Preprocessing, normalise
from core.rpc.errors import retry_after_s, rpc_errors, status_of
from core.rpc.identity import SpiffeId
from core.rpc.settings import Peer
from core.sealing import SealContext, SealingKey, fingerprint, seal, signed_part
from core.statements import ENVELOPE, MANIFEST, sign
from core.transform import transform_embedding
from core.wire import to_bytes
from parties.data_owner.client import Channels, Client, OwnKeys
from parties.data_owner.keyring import Keyring
from parties.data_owner.settings import OwnerSettings
from protos import (
    audit_pb2,
    audit_pb2_grpc,
    bulk_pb2,
    bulk_pb2_grpc,
    key_holder_pb2,
    key_holder_pb2_grpc,
    open_inference_pb2,
    open_inference_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)

FEDERATION = "test.keymixer"
OWNER = SpiffeId(FEDERATION, "st-anna", "data-owner")
HOLDER = SpiffeId(FEDERATION, "keyhouse", "key-holder")
PROVIDER = SpiffeId(FEDERATION, "modelworks", "model-provider")
SIZES = Architecture(
    hidden=3, depth=1, kernel_size=3, patch_size=2, height=8, width=8, classes=3
)
CLASSES = ("red", "white", "platelet")
PREPROCESSING = Preprocessing(8, 8, 3, mean=(0.5,) * 3, std=(0.25,) * 3)
WEIGHT = np.random.default_rng(5).normal(size=(3, 3, 2, 2)).astype(np.float32)


def plain_answer(images: np.ndarray) -> np.ndarray:
    """What the plain model says, patch by patch, without blocks, keys or einops."""
    normalised = normalise(images, PREPROCESSING).astype(np.float64)
    total = np.zeros((len(images), 3))
    for row in range(0, 8, 2):
        for column in range(0, 8, 2):
            patch = normalised[:, None, :, row : row + 2, column : column + 2]
            total += (patch * WEIGHT).sum((2, 3, 4)) / 16
    return total


@dataclass
class FakeLog:
    """A log in memory, by the definitions of the tree."""

    pen: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    origin: str = "test.keymixer/audit"
    bodies: list[bytes] = field(default_factory=list)

    @property
    def public_key(self) -> bytes:
        return self.pen.public_key().public_bytes_raw()

    def leaves(self, size: int | None = None) -> list[bytes]:
        return [leaf_hash(body) for body in self.bodies[:size]]

    def append(self, kind: str, **subject: Any) -> int:
        record = {
            "v": 1,
            "index": len(self.bodies),
            "time_ms": 5,
            "kind": kind,
            "actor": "",
            "subject": subject,
        }
        self.bodies.append(canonical(record))
        return len(self.bodies) - 1

    def checkpoint(self) -> bytes:
        return sign_checkpoint(
            self.pen, self.origin, len(self.bodies), root(self.leaves())
        )

    def forked(self, at: int) -> "FakeLog":
        """Another history with the same name and key, alike up to record `at`."""
        other = FakeLog(self.pen, self.origin, self.bodies[:at])
        while len(other.bodies) < len(self.bodies):
            other.append("elsewhere")
        return other

    def rewound(self, to: int) -> "FakeLog":
        return FakeLog(self.pen, self.origin, self.bodies[:to])


def _begun() -> FakeLog:
    log = FakeLog()
    log.append("log.begun")
    return log


@dataclass
class World:
    """What the fakes know; a test changes it between two requests."""

    holder_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    provider_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    # What the key holder signs with, which is not always what it registered.
    signs_with: Ed25519PrivateKey | None = None
    versions: dict[int, registry_pb2.KeyVersion] = field(default_factory=dict)
    live: set[int] = field(default_factory=set)
    issued_state: str = "live"
    # What the orchestrator shows; `recorded` says where a version went live.
    log: FakeLog = field(default_factory=_begun)
    recorded: dict[int, int] = field(default_factory=dict)
    # The same of the model's second version, for those key versions that have it.
    candidates: dict[int, int] = field(default_factory=dict)
    # The aliases of the first and the second version.
    aliases: tuple[list[str], list[str]] = (["champion"], ["candidate"])
    cosigned: list[bytes] = field(default_factory=list)
    listed: list[int] = field(default_factory=list)
    takes_cosignatures: bool = True
    # Whose key the inference server thinks it is asked with.
    key_id: str = "st-anna.cells"
    sealed_for: str = str(OWNER)
    sealing_key: bytes = b""
    # Where all of them are served.
    address: str = ""
    lifetime_ms: int = 60_000
    proved: list[int] = field(default_factory=list)
    fetched: list[int] = field(default_factory=list)
    asked: list[open_inference_pb2.ModelInferRequest] = field(default_factory=list)
    answer_id: str | None = None
    answer_classes: int = 3
    # How many requests there are answers for.
    budget: int = 1_000_000
    manifest_changed: bool = False
    # What the log says of an answer that is not so; the nonce that is sent instead.
    misrecorded: dict[str, Any] = field(default_factory=dict)
    nonce: str = ""
    # Called before a request is answered: the world may change under the client.
    on_request: list[Any] = field(default_factory=list)
    # The same for a request of a stream, with its context; true ends the stream.
    on_streamed: list[Any] = field(default_factory=list)
    streams: int = 0

    def seed(self, version: int) -> bytes:
        return bytes([version]) * 32

    def create(self, version: int = 1, **changes: Any) -> None:
        """Draw a key version, as an operator has it done."""
        facts: dict[str, Any] = {
            "key_id": "st-anna.cells",
            "version": version,
            "owner": str(OWNER),
            "model": "cells",
            "generator": GENERATOR,
            "patch_size": 2,
            "channels": 3,
            "state": "pre_active",
        }
        self.versions[version] = registry_pb2.KeyVersion(**facts | changes)

    def activate(self, version: int) -> None:
        """Make a version the primary one, issued and live."""
        for other in self.versions.values():
            other.primary = False
        self.versions[version].state = "active"
        self.versions[version].primary = True
        self.versions[version].confirmed = True
        self.live.add(version)
        self.recorded[version] = self.log.append("issued.live", **self.issued(version))

    def try_candidate(self, version: int = 1) -> None:
        """Issue the model's second version for a key version, beside the champion."""
        said = self.issued(version, model_version=2)
        self.candidates[version] = self.log.append("issued.live", **said)

    def retire(self, version: int) -> None:
        self.versions[version].state = "destroyed"
        self.versions[version].primary = False
        self.live.discard(version)

    def issued(self, version: int, **changes: Any) -> dict[str, Any]:
        """What the log says of an issued model."""
        facts = {
            "owner": str(OWNER),
            "key_id": "st-anna.cells",
            "key_version": version,
            "model": "cells",
            "model_version": 1,
            "model_digest": hashlib.sha256(self.manifest()).hexdigest(),
            "digest": self.digest(version).hex(),
            "issued_state": "live",
        }
        return facts | changes

    def digest(self, version: int) -> bytes:
        return bytes([version]) * 32

    def manifest(self) -> bytes:
        return Manifest(
            name="cells",
            architecture=SIZES,
            preprocessing=PREPROCESSING,
            classes=CLASSES,
            metrics={"test_accuracy": 0.5},
            lineage={"seed": 1},
            embedding_digest="0" * 64,
            backbone_digest="1" * 64,
        ).to_bytes()


class FakeRegistry(registry_pb2_grpc.RegistryServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def RegisterPublicKeys(self, request: Any, context: Any) -> Any:
        self.world.sealing_key = request.sealing_key
        return registry_pb2.RegisterPublicKeysResponse()

    def ListParties(self, request: Any, context: Any) -> Any:
        keys = {HOLDER: self.world.holder_key, PROVIDER: self.world.provider_key}
        return registry_pb2.ListPartiesResponse(
            parties=[
                registry_pb2.Party(
                    spiffe_id=str(party),
                    state="active",
                    signing_key=key.public_key().public_bytes_raw(),
                )
                for party, key in keys.items()
            ]
        )

    def ListModelVersions(self, request: Any, context: Any) -> Any:
        manifest = self.world.manifest()
        signature = sign(self.world.provider_key, MANIFEST, manifest)
        if self.world.manifest_changed:
            manifest = manifest.replace(b'"red"', b'"ref"')
        return registry_pb2.ListModelVersionsResponse(
            versions=[
                registry_pb2.ModelVersion(
                    name="cells",
                    version=number,
                    provider=str(PROVIDER),
                    manifest=manifest,
                    signature=signature,
                    aliases=aliases,
                )
                for number, aliases in enumerate(self.world.aliases, 1)
            ][: 2 if self.world.candidates else 1]
        )

    def ListKeyVersions(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListKeyVersionsResponse(
            versions=self.world.versions.values()
        )

    def ListIssuedModels(self, request: Any, context: Any) -> Any:
        champions = {v: self.world.recorded.get(v, 0) for v in self.world.live}
        return registry_pb2.ListIssuedModelsResponse(
            issued=[
                registry_pb2.IssuedModel(
                    key_id="st-anna.cells",
                    key_version=version,
                    model="cells",
                    model_version=number,
                    owner=str(OWNER),
                    digest=self.world.digest(version),
                    state=self.world.issued_state,
                    audit_index=index,
                )
                for number, found in ((1, champions), (2, self.world.candidates))
                for version, index in found.items()
            ]
        )


class FakeAudit(audit_pb2_grpc.AuditServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def GetCheckpoint(self, request: Any, context: Any) -> Any:
        log = self.world.log
        return audit_pb2.GetCheckpointResponse(
            checkpoint=log.checkpoint(), public_key=log.public_key
        )

    def GetConsistencyProof(self, request: Any, context: Any) -> Any:
        leaves = self.world.log.leaves(request.second_size)
        path = consistency_path(leaves, request.first_size)
        return audit_pb2.GetConsistencyProofResponse(path=path)

    def GetInclusionProof(self, request: Any, context: Any) -> Any:
        leaves = self.world.log.leaves(request.tree_size)
        path = inclusion_path(leaves, request.index)
        return audit_pb2.GetInclusionProofResponse(path=path)

    def ListEntries(self, request: Any, context: Any) -> Any:
        self.world.listed.append(request.start)
        found = self.world.log.bodies[request.start :][: request.limit]
        return audit_pb2.ListEntriesResponse(
            entries=[
                audit_pb2.AuditEntry(index=index, body=body)
                for index, body in enumerate(found, request.start)
            ]
        )

    def SubmitCosignature(self, request: Any, context: Any) -> Any:
        with rpc_errors(context):
            if not self.world.takes_cosignatures:
                raise NotFound("no room")
        self.world.cosigned.append(request.checkpoint)
        return audit_pb2.SubmitCosignatureResponse()

    def ListCosignatures(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def RecordEvents(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def RecordInferences(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


class FakeKeyHolder(key_holder_pb2_grpc.KeyHolderServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def FetchSealedKey(self, request: Any, context: Any) -> Any:
        world = self.world
        world.fetched.append(request.version)
        sealed = SealContext(
            federation=FEDERATION,
            key_holder=str(HOLDER),
            owner=world.sealed_for,
            key_id=request.key_id,
            version=request.version,
            generator=GENERATOR,
            recipient_fingerprint=fingerprint(world.sealing_key),
            expires_at_ms=int(time.time() * 1000) + world.lifetime_ms,
        )
        envelope = seal(world.seed(request.version), world.sealing_key, sealed)
        signer = world.signs_with or world.holder_key
        return key_holder_pb2.FetchSealedKeyResponse(
            envelope=envelope,
            signature=sign(signer, ENVELOPE, signed_part(envelope, sealed)),
            expires_at_ms=sealed.expires_at_ms,
        )

    def ProvePossession(self, request: Any, context: Any) -> Any:
        verify_possession(
            request.tag,
            self.world.seed(request.version),
            key_id=request.key_id,
            version=request.version,
            owner=str(OWNER),
        )
        self.world.proved.append(request.version)
        return key_holder_pb2.ProvePossessionResponse()


class FakeInferenceServer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def ModelInfer(self, request: Any, context: Any) -> Any:
        with rpc_errors(context):
            return self.answer(request)

    def answer(self, request: Any) -> Any:
        world = self.world
        world.asked.append(request)
        if world.on_request:
            world.on_request.pop(0)()
        version = request.parameters["key_version"].int64_param
        if request.parameters["key_id"].string_param != world.key_id:
            raise NotAllowedError("the key belongs to another owner")
        if version not in world.live:
            raise KeyRefusedError("nothing is issued")
        if len(world.asked) > world.budget:
            raise BudgetSpent("so many requests and no more")
        return self._answer(request, version)

    def _answer(self, request: Any, version: int) -> Any:
        blocks = decode(
            request.raw_input_contents[0],
            request.inputs[0].shape,
            request.inputs[0].datatype,
            uint8_step(PREPROCESSING, SIZES.dimension),
        )
        seed = self.world.seed(version)
        key = derive_key(
            seed, key_id="st-anna.cells", version=version, patch_size=2, channels=3
        )
        tokens = blocks @ transform_embedding(WEIGHT, key).T
        logits = tokens.mean((1, 2))[:, : self.world.answer_classes]
        result = to_bytes(logits.astype(np.float32))
        nonce = bytes([len(self.world.asked)]) * 32
        index = self.world.log.append(
            "inference",
            **{
                "owner": str(OWNER),
                "key_id": "st-anna.cells",
                "key_version": version,
                "model": request.model_name,
                "model_version": int(request.model_version),
                "model_digest": hashlib.sha256(self.world.manifest()).hexdigest(),
                "images": len(logits),
                "request_id": request.id,
                "request_digest": hmac.digest(
                    nonce, request.raw_input_contents[0], "sha256"
                ).hex(),
                "result_digest": hmac.digest(nonce, result, "sha256").hex(),
            }
            | self.world.misrecorded,
        )
        return open_inference_pb2.ModelInferResponse(
            model_name=request.model_name,
            model_version=request.model_version,
            id=self.world.answer_id or request.id,
            parameters={
                "audit_index": open_inference_pb2.InferParameter(int64_param=index),
                "audit_nonce": open_inference_pb2.InferParameter(
                    string_param=self.world.nonce or nonce.hex()
                ),
            },
            outputs=[
                open_inference_pb2.ModelInferResponse.InferOutputTensor(
                    name="logits", datatype="FP32", shape=logits.shape
                )
            ],
            raw_output_contents=[result],
        )


class FakeBulkServer(bulk_pb2_grpc.BulkInferenceServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world
        one: Any = FakeInferenceServer
        self._one = one(world)

    def InferStream(self, request_iterator: Any, context: Any) -> Any:
        self.world.streams += 1
        with rpc_errors(context):
            for each in request_iterator:
                ends = self.world.on_streamed.pop(0) if self.world.on_streamed else None
                if ends is not None and ends(context):
                    return
                yield self._outcome(each.request)

    def _outcome(self, request: Any) -> Any:
        try:
            answer = self._one.answer(request)
        except KeymixerError as error:
            refused = bulk_pb2.InferError(
                request_id=request.id,
                kind=error.kind,
                hint=error.hint,
                code=status_of(error).value[0],
                retry_after_s=retry_after_s(error),
            )
            return bulk_pb2.InferStreamResponse(error=refused)
        return bulk_pb2.InferStreamResponse(answer=answer)


@contextmanager
def served(world: World) -> Iterator[Channels]:
    """Serve the fakes and give channels to them."""
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    fakes: list[tuple[Any, Any]] = [
        (registry_pb2_grpc.add_RegistryServiceServicer_to_server, FakeRegistry),
        (audit_pb2_grpc.add_AuditServiceServicer_to_server, FakeAudit),
        (key_holder_pb2_grpc.add_KeyHolderServiceServicer_to_server, FakeKeyHolder),
        (
            open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server,
            FakeInferenceServer,
        ),
        (bulk_pb2_grpc.add_BulkInferenceServiceServicer_to_server, FakeBulkServer),
    ]
    for add, fake in fakes:
        add(fake(world), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    world.address = f"127.0.0.1:{port}"
    with grpc.insecure_channel(world.address) as channel:
        yield Channels(channel, channel, channel)
    server.stop(grace=None).wait()


def client_of(
    channels: Channels,
    folder: Path,
    model: str | None = None,
    *,
    signing: Ed25519PrivateKey | None = None,
    **changes: Any,
) -> Client:
    """An owner's client that looks at registry and log before every request."""
    peers = {
        name: Peer("127.0.0.1:1", spiffe)
        for name, spiffe in (
            ("orchestrator", SpiffeId(FEDERATION, "consortium", "orchestrator")),
            ("key_holder", HOLDER),
            ("inference_server", SpiffeId(FEDERATION, "cloudrow", "inference-server")),
        )
    }
    facts: dict[str, Any] = {
        "federation": FEDERATION,
        "refresh_s": 0.0,
        "witness_s": 0.0,
        **peers,
    }
    signing = signing or Ed25519PrivateKey.generate()
    own = OwnKeys(signing, SealingKey.generate())
    return Client(
        OwnerSettings(**facts | changes),
        OWNER,
        Keyring(folder),
        own,
        channels,
        model=model,
    )
