"""Hand a release over: the manifest to the registry, each half to its one party."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import KeymixerError
from core.rpc.channel import open_channel
from core.rpc.errors import remote_errors
from core.rpc.identity import Identity
from core.rpc.settings import Peer
from parties.model_provider.release import Release
from parties.model_provider.settings import ProviderSettings
from protos import (
    key_holder_pb2,
    key_holder_pb2_grpc,
    model_store_pb2,
    model_store_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)

CHAMPION: Final = "champion"


@dataclass(frozen=True, slots=True)
class Delivery:
    """The parties a provider delivers to, connected."""

    registry: registry_pb2_grpc.RegistryServiceStub
    key_holder: key_holder_pb2_grpc.KeyHolderServiceStub
    # Its replicas.
    inference_servers: Sequence[model_store_pb2_grpc.ModelStoreServiceStub]
    chunk_bytes: int

    def register(
        self,
        release: Release,
        signature: bytes,
        key: Ed25519PrivateKey,
        alias: str = CHAMPION,
    ) -> int:
        """Register and deliver a release; return the version the registry gave.

        May be repeated after a crash: a manifest that is registered already keeps its
        version, and the stores take the same file twice. The alias moves last, when
        both halves are in place; an empty one does not.
        """
        name = release.manifest.name
        version = self._version_of(release, signature, key)
        self._store_embedding(name, version, release.embedding)
        self._store_backbone(name, version, release.backbone)
        if alias:
            self._point(alias, name, version)
        return version

    def _point(self, alias: str, name: str, version: int) -> None:
        request = registry_pb2.SetAliasRequest(name=name, alias=alias, version=version)
        with remote_errors("orchestrator"):
            self.registry.SetAlias(request)

    def _version_of(
        self, release: Release, signature: bytes, key: Ed25519PrivateKey
    ) -> int:
        manifest = release.manifest.to_bytes()
        public_key = key.public_key().public_bytes_raw()
        with remote_errors("orchestrator"):
            self.registry.RegisterPublicKeys(
                registry_pb2.RegisterPublicKeysRequest(signing_key=public_key)
            )
            known = self.registry.ListModelVersions(
                registry_pb2.ListModelVersionsRequest(name=release.manifest.name)
            )
            for model in known.versions:
                if (model.manifest, model.signature) == (manifest, signature):
                    return model.version
            answer = self.registry.RegisterModelVersion(
                registry_pb2.RegisterModelVersionRequest(
                    manifest=manifest, signature=signature
                )
            )
        return answer.version

    def _store_embedding(self, name: str, version: int, content: bytes) -> None:
        with remote_errors("key holder"):
            self.key_holder.StoreEmbedding(
                key_holder_pb2.StoreEmbeddingRequest(
                    model=name, model_version=version, embedding=content
                )
            )

    def _store_backbone(self, name: str, version: int, content: bytes) -> None:
        """Give it to every replica that is there; the others fetch it from these."""
        failures: list[KeymixerError] = []
        for server in self.inference_servers:
            try:
                with remote_errors("inference server"):
                    server.StoreBackbone(
                        _chunks(name, version, content, self.chunk_bytes)
                    )
            except KeymixerError as error:
                failures.append(error)
        if len(failures) == len(self.inference_servers):
            raise failures[0]


def connect(
    stack: ExitStack, settings: ProviderSettings, identity: Identity
) -> Delivery:
    """Open a channel to each of the three parties, closed with `stack`."""

    def channel(peer: Peer) -> grpc.Channel:
        opened = open_channel(
            peer.address, identity, peer.spiffe_id, deadline_s=settings.deadline_s
        )
        return stack.enter_context(opened)

    return Delivery(
        registry_pb2_grpc.RegistryServiceStub(channel(settings.orchestrator)),
        key_holder_pb2_grpc.KeyHolderServiceStub(channel(settings.key_holder)),
        [
            model_store_pb2_grpc.ModelStoreServiceStub(channel(each))
            for each in settings.inference_servers
        ],
        settings.chunk_bytes,
    )


def _chunks(
    name: str, version: int, content: bytes, size: int
) -> Iterator[model_store_pb2.StoreBackboneRequest]:
    """Cut a file in messages, of which the first names it."""
    for start in range(0, len(content), size):
        chunk = content[start : start + size]
        if start:
            yield model_store_pb2.StoreBackboneRequest(chunk=chunk)
        else:
            yield model_store_pb2.StoreBackboneRequest(
                model=name, model_version=version, chunk=chunk
            )
