"""The three parties an owner talks to, in this process, over loopback without TLS.

The key holder really seals and signs, and the inference server really computes: its
logits are the mean token, so `W A^T A x = W x` can be checked against plain NumPy.
"""

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
from core.errors import BudgetSpent, KeyRefusedError, NotAllowedError
from core.keys import derive_key, verify_possession
from core.manifest import Manifest
from core.orthogonal import GENERATOR
from core.preprocessing import Preprocessing, normalise
from core.rpc.errors import rpc_errors
from core.rpc.identity import SpiffeId
from core.rpc.settings import Peer
from core.sealing import SealContext, SealingKey, fingerprint, seal, signed_part
from core.statements import ENVELOPE, MANIFEST, sign
from core.transform import transform_embedding
from core.wire import from_bytes, to_bytes
from parties.data_owner.client import Channels, Client, OwnKeys
from parties.data_owner.keyring import Keyring
from parties.data_owner.settings import OwnerSettings
from protos import (
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
class World:
    """What the fakes know; a test changes it between two requests."""

    holder_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    provider_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    # What the key holder signs with, which is not always what it registered.
    signs_with: Ed25519PrivateKey | None = None
    versions: dict[int, registry_pb2.KeyVersion] = field(default_factory=dict)
    live: set[int] = field(default_factory=set)
    issued_state: str = "live"
    # Whose key the inference server thinks it is asked with.
    key_id: str = "st-anna.cells"
    sealed_for: str = str(OWNER)
    sealing_key: bytes = b""
    lifetime_ms: int = 60_000
    proved: list[int] = field(default_factory=list)
    fetched: list[int] = field(default_factory=list)
    asked: list[open_inference_pb2.ModelInferRequest] = field(default_factory=list)
    answer_id: str | None = None
    answer_classes: int = 3
    # How many requests there are answers for.
    budget: int = 1_000_000
    manifest_changed: bool = False
    # Called before a request is answered: the world may change under the client.
    on_request: list[Any] = field(default_factory=list)

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

    def retire(self, version: int) -> None:
        self.versions[version].state = "destroyed"
        self.versions[version].primary = False
        self.live.discard(version)

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
                    version=1,
                    provider=str(PROVIDER),
                    manifest=manifest,
                    signature=signature,
                )
            ]
        )

    def ListKeyVersions(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListKeyVersionsResponse(
            versions=self.world.versions.values()
        )

    def ListIssuedModels(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListIssuedModelsResponse(
            issued=[
                registry_pb2.IssuedModel(
                    key_id="st-anna.cells",
                    key_version=version,
                    model="cells",
                    model_version=1,
                    owner=str(OWNER),
                    state=self.world.issued_state,
                )
                for version in self.world.live
            ]
        )


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
        world = self.world
        world.asked.append(request)
        if world.on_request:
            world.on_request.pop(0)()
        version = request.parameters["key_version"].int64_param
        with rpc_errors(context):
            if request.parameters["key_id"].string_param != world.key_id:
                raise NotAllowedError("the key belongs to another owner")
            if version not in world.live:
                raise KeyRefusedError("nothing is issued")
            if len(world.asked) > world.budget:
                raise BudgetSpent("so many requests and no more")
        return self._answer(request, version)

    def _answer(self, request: Any, version: int) -> Any:
        blocks = from_bytes(request.raw_input_contents[0], request.inputs[0].shape)
        seed = self.world.seed(version)
        key = derive_key(
            seed, key_id="st-anna.cells", version=version, patch_size=2, channels=3
        )
        tokens = blocks @ transform_embedding(WEIGHT, key).T
        logits = tokens.mean((1, 2))[:, : self.world.answer_classes]
        return open_inference_pb2.ModelInferResponse(
            model_name=request.model_name,
            model_version=request.model_version,
            id=self.world.answer_id or request.id,
            parameters={
                "audit_index": open_inference_pb2.InferParameter(
                    int64_param=len(self.world.asked)
                ),
                "audit_nonce": open_inference_pb2.InferParameter(string_param="ab"),
            },
            outputs=[
                open_inference_pb2.ModelInferResponse.InferOutputTensor(
                    name="logits", datatype="FP32", shape=logits.shape
                )
            ],
            raw_output_contents=[to_bytes(logits.astype(np.float32))],
        )


@contextmanager
def served(world: World) -> Iterator[Channels]:
    """Serve the three fakes and give channels to them."""
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    fakes: list[tuple[Any, Any]] = [
        (registry_pb2_grpc.add_RegistryServiceServicer_to_server, FakeRegistry),
        (key_holder_pb2_grpc.add_KeyHolderServiceServicer_to_server, FakeKeyHolder),
        (
            open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server,
            FakeInferenceServer,
        ),
    ]
    for add, fake in fakes:
        add(fake(world), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Channels(channel, channel, channel)
    server.stop(grace=None).wait()


def client_of(
    channels: Channels, folder: Path, model: str | None = None, **changes: Any
) -> Client:
    """An owner's client that looks at the registry before every request."""
    peers = {
        name: Peer("127.0.0.1:1", spiffe)
        for name, spiffe in (
            ("orchestrator", SpiffeId(FEDERATION, "consortium", "orchestrator")),
            ("key_holder", HOLDER),
            ("inference_server", SpiffeId(FEDERATION, "cloudrow", "inference-server")),
        )
    }
    facts: dict[str, Any] = {"federation": FEDERATION, "refresh_s": 0.0, **peers}
    own = OwnKeys(Ed25519PrivateKey.generate(), SealingKey.generate())
    return Client(
        OwnerSettings(**facts | changes),
        OWNER,
        Keyring(folder),
        own,
        channels,
        model=model,
    )
