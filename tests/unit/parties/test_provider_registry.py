"""A release reaches its three parties, each half its own, and only once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.architecture import Architecture
from core.errors import KeymixerError, NotAllowedError, PeerUnavailable
from core.manifest import Manifest
from core.preprocessing import Preprocessing
from core.rpc.errors import rpc_errors
from core.statements import MANIFEST, sign
from core.wire import file_digest
from parties.model_provider.registry import Delivery
from parties.model_provider.release import Release
from protos import (
    key_holder_pb2,
    key_holder_pb2_grpc,
    model_store_pb2,
    model_store_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)

EMBEDDING, BACKBONE = b"embedding" * 10, b"backbone" * 100


@dataclass
class Seen:
    """What each fake was given."""

    versions: list[registry_pb2.ModelVersion] = field(default_factory=list)
    embeddings: list[Any] = field(default_factory=list)
    chunks: list[Any] = field(default_factory=list)
    alias: list[Any] = field(default_factory=list)
    refuse_backbone: bool = False


class FakeRegistry(registry_pb2_grpc.RegistryServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def RegisterPublicKeys(self, request: Any, context: Any) -> Any:
        return registry_pb2.RegisterPublicKeysResponse()

    def ListModelVersions(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListModelVersionsResponse(versions=self.seen.versions)

    def RegisterModelVersion(self, request: Any, context: Any) -> Any:
        version = len(self.seen.versions) + 1
        self.seen.versions.append(
            registry_pb2.ModelVersion(
                name="cells",
                version=version,
                manifest=request.manifest,
                signature=request.signature,
            )
        )
        return registry_pb2.RegisterModelVersionResponse(name="cells", version=version)

    def SetAlias(self, request: Any, context: Any) -> Any:
        self.seen.alias.append(request)
        return registry_pb2.SetAliasResponse()


class FakeKeyHolder(key_holder_pb2_grpc.KeyHolderServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def StoreEmbedding(self, request: Any, context: Any) -> Any:
        self.seen.embeddings.append(request)
        return key_holder_pb2.StoreEmbeddingResponse()


class FakeModelStore(model_store_pb2_grpc.ModelStoreServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def StoreBackbone(self, request_iterator: Any, context: Any) -> Any:
        with rpc_errors(context):
            if self.seen.refuse_backbone:
                raise NotAllowedError("not today")
            self.seen.chunks.append(list(request_iterator))
        return model_store_pb2.StoreBackboneResponse()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def delivery(seen: Seen) -> Iterator[Delivery]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    fakes: list[tuple[Any, Any]] = [
        (registry_pb2_grpc.add_RegistryServiceServicer_to_server, FakeRegistry),
        (key_holder_pb2_grpc.add_KeyHolderServiceServicer_to_server, FakeKeyHolder),
        (model_store_pb2_grpc.add_ModelStoreServiceServicer_to_server, FakeModelStore),
    ]
    for add, fake in fakes:
        add(fake(seen), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Delivery(
            registry_pb2_grpc.RegistryServiceStub(channel),
            key_holder_pb2_grpc.KeyHolderServiceStub(channel),
            [model_store_pb2_grpc.ModelStoreServiceStub(channel)],
            chunk_bytes=300,
        )
    server.stop(grace=None).wait()


@pytest.fixture
def release() -> Release:
    manifest = Manifest(
        name="cells",
        architecture=Architecture(classes=2),
        preprocessing=Preprocessing(32, 32, 3, mean=(0.5,) * 3, std=(0.25,) * 3),
        classes=("red", "white"),
        metrics={},
        lineage={},
        embedding_digest=file_digest(EMBEDDING),
        backbone_digest=file_digest(BACKBONE),
    )
    return Release(manifest, EMBEDDING, BACKBONE)


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def register(delivery: Delivery, release: Release, key: Ed25519PrivateKey) -> int:
    signature = sign(key, MANIFEST, release.manifest.to_bytes())
    return delivery.register(release, signature, key)


def test_each_half_goes_to_its_own_party(
    delivery: Delivery, release: Release, key: Ed25519PrivateKey, seen: Seen
) -> None:
    assert register(delivery, release, key) == 1

    (stored,) = seen.embeddings
    (chunks,) = seen.chunks
    assert (stored.model, stored.model_version) == ("cells", 1)
    assert stored.embedding == EMBEDDING
    assert b"".join(chunk.chunk for chunk in chunks) == BACKBONE
    assert [300, 300, 200] == [len(chunk.chunk) for chunk in chunks]
    assert ["cells", "", ""] == [chunk.model for chunk in chunks]
    assert ("champion", 1) == (seen.alias[0].alias, seen.alias[0].version)


def test_registering_again_keeps_the_version(
    delivery: Delivery, release: Release, key: Ed25519PrivateKey, seen: Seen
) -> None:
    assert [1, 1] == [register(delivery, release, key) for _ in range(2)]
    assert len(seen.versions) == 1


@pytest.mark.parametrize(("alias", "moved"), [("candidate", ["candidate"]), ("", [])])
def test_a_release_need_not_become_the_champion(
    delivery: Delivery,
    release: Release,
    key: Ed25519PrivateKey,
    seen: Seen,
    *,
    alias: str,
    moved: list[str],
) -> None:
    """It could not be tried beside the champion if registering it had replaced that."""
    signature = sign(key, MANIFEST, release.manifest.to_bytes())
    delivery.register(release, signature, key, alias)

    assert moved == [request.alias for request in seen.alias]
    assert len(seen.chunks) == len(seen.embeddings) == 1


def test_the_alias_does_not_move_before_both_halves_are_in_place(
    delivery: Delivery, release: Release, key: Ed25519PrivateKey, seen: Seen
) -> None:
    seen.refuse_backbone = True

    with pytest.raises(KeymixerError) as caught:
        register(delivery, release, key)
    assert caught.value.kind == "NotAllowed"
    assert not seen.alias

    seen.refuse_backbone = False
    assert register(delivery, release, key) == 1
    assert seen.alias


def test_a_backbone_goes_to_every_replica_that_is_there(
    delivery: Delivery, release: Release, key: Ed25519PrivateKey, seen: Seen
) -> None:
    """The others fetch it from these; one must be there."""
    (there,) = delivery.inference_servers
    with grpc.insecure_channel("127.0.0.1:1") as nobody:
        away = model_store_pb2_grpc.ModelStoreServiceStub(nobody)
        some = replace(delivery, inference_servers=[away, there, away, there])
        none = replace(delivery, inference_servers=[away, away])

        assert register(some, release, key) == 1
        with pytest.raises(PeerUnavailable):
            register(none, release, key)
    assert 2 == len(seen.chunks)
