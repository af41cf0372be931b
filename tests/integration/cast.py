"""Two parties over real TLS on loopback, around an orchestrator that only remembers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.rpc.channel import open_channel, wait_ready
from core.rpc.errors import remote_errors
from core.rpc.identity import (
    Identity,
    SpiffeId,
    create_identity,
    install_certificate,
    load_identity,
)
from core.rpc.policy import current_caller
from core.rpc.server import serve
from core.sealing import SealingKey
from orchestrator.certificates import DevelopmentCA
from orchestrator.policy import POLICY
from parties.inference_server import __main__ as inference_server
from parties.key_holder import __main__ as key_holder
from protos import (
    audit_pb2,
    audit_pb2_grpc,
    key_holder_pb2,
    key_holder_pb2_grpc,
    model_store_pb2,
    model_store_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    ORCHESTRATOR_ID,
    OTHER_OWNER_ID,
    OWNER_ID,
    PROVIDER_ID,
    SERVER_ID,
    TINY,
    FakeAuditLog,
    FakeRegistry,
    Release,
)

# A machine that stands still for seconds makes nobody late, and nothing too old.
LONG_S: Final = 60.0
KEY_SERVICE = "keymixer.v1.KeyHolderService"
INFERENCE_SERVICE = "inference.GRPCInferenceService"


class RegistryStandIn(registry_pb2_grpc.RegistryServiceServicer):
    """The registry's methods that the two parties call, on a registry in memory."""

    def __init__(self, registry: FakeRegistry) -> None:
        self._registry = registry

    def RegisterPublicKeys(
        self, request: registry_pb2.RegisterPublicKeysRequest, _context: Any
    ) -> registry_pb2.RegisterPublicKeysResponse:
        party = self._registry.party(str(current_caller()))
        party.signing_key = request.signing_key
        return registry_pb2.RegisterPublicKeysResponse(party=party)

    def ListParties(
        self, _request: registry_pb2.ListPartiesRequest, _context: Any
    ) -> registry_pb2.ListPartiesResponse:
        parties = self._registry.parties.values()
        return registry_pb2.ListPartiesResponse(parties=parties)

    def ListModelVersions(
        self, _request: registry_pb2.ListModelVersionsRequest, _context: Any
    ) -> registry_pb2.ListModelVersionsResponse:
        versions = self._registry.versions
        return registry_pb2.ListModelVersionsResponse(versions=versions)

    def ListIssuedModels(
        self, _request: registry_pb2.ListIssuedModelsRequest, _context: Any
    ) -> registry_pb2.ListIssuedModelsResponse:
        return registry_pb2.ListIssuedModelsResponse(issued=self._registry.issued)

    def ListStanding(
        self, request: registry_pb2.ListStandingRequest, _context: Any
    ) -> registry_pb2.ListStandingResponse:
        return self._registry.standing(request.since)

    def ConfirmKeyVersion(
        self, request: registry_pb2.ConfirmKeyVersionRequest, _context: Any
    ) -> registry_pb2.ConfirmKeyVersionResponse:
        self._registry.confirm_key_version(request.key_id, request.version)
        return registry_pb2.ConfirmKeyVersionResponse()

    def RegisterModelVersion(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ListGrants(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def SetAlias(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ListKeyVersions(
        self, request: registry_pb2.ListKeyVersionsRequest, _context: Any
    ) -> registry_pb2.ListKeyVersionsResponse:
        """As many versions of the key as a test could draw."""
        drawn = [self._registry.key_version(request.key_id, v) for v in range(1, 10)]
        return registry_pb2.ListKeyVersionsResponse(versions=drawn)


class AuditStandIn(audit_pb2_grpc.AuditServiceServicer):
    """The log's two methods for writing, on a log in memory."""

    def __init__(self, audit: FakeAuditLog) -> None:
        self._audit = audit

    def RecordEvents(
        self, request: audit_pb2.RecordEventsRequest, _context: Any
    ) -> audit_pb2.RecordEventsResponse:
        self._audit.record_events(request.events)
        return audit_pb2.RecordEventsResponse(indices=[0] * len(request.events))

    def RecordInferences(
        self, request: audit_pb2.RecordInferencesRequest, _context: Any
    ) -> audit_pb2.RecordInferencesResponse:
        verdicts = self._audit.record_inferences(request.records)
        return audit_pb2.RecordInferencesResponse(verdicts=verdicts)

    def ListEntries(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def EraseNote(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def GetCheckpoint(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def GetInclusionProof(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def GetConsistencyProof(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def SubmitCosignature(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ListCosignatures(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


@dataclass
class Cast:
    """An authority, a folder for each party, and what the orchestrator remembers."""

    folder: Path
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    audit: FakeAuditLog = field(default_factory=FakeAuditLog)
    release: Release = field(default_factory=Release)
    sealing_key: SealingKey = field(default_factory=SealingKey.generate)
    addresses: dict[SpiffeId, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ca = DevelopmentCA.create(self.folder / "ca")
        self.registry.enrol(KEY_HOLDER_ID)
        self.registry.enrol(SERVER_ID)
        self.registry.enrol(OWNER_ID, sealing_key=self.sealing_key)
        self.registry.enrol(OTHER_OWNER_ID, Ed25519PrivateKey.generate())
        self.release.register(self.registry)

    def home(self, who: SpiffeId) -> Path:
        return self.folder / who.organisation

    def identity(self, who: SpiffeId) -> Identity:
        csr = create_identity(self.home(who), who)
        install_certificate(self.home(who), self.ca.sign(csr, who), self.ca.ca_pem)
        return load_identity(self.home(who))

    @contextmanager
    def orchestrator(self, address: str = "127.0.0.1:0") -> Iterator[None]:
        def register(server: grpc.Server) -> None:
            registry_pb2_grpc.add_RegistryServiceServicer_to_server(
                RegistryStandIn(self.registry), server
            )
            audit_pb2_grpc.add_AuditServiceServicer_to_server(
                AuditStandIn(self.audit), server
            )

        identity = self.identity(ORCHESTRATOR_ID)
        with serve(identity, POLICY, register, [], address) as server:
            server.set_serving(True)
            self.addresses[ORCHESTRATOR_ID] = server.address
            yield

    def settle(self, who: SpiffeId, *peers: SpiffeId, **more: object) -> Path:
        """Give a party its identity and settings; return its folder."""
        self.identity(who)
        settings = {
            peer.role.replace("-", "_"): {
                "address": self.addresses[peer],
                "spiffe_id": str(peer),
            }
            for peer in peers
        }
        common = {
            "federation": "demo",
            "listen": "127.0.0.1:0",
            "max_staleness_s": LONG_S,
        }
        path = self.home(who) / "settings.json"
        path.write_text(json.dumps(common | settings | more))
        return path.parent

    @contextmanager
    def inference_server(self) -> Iterator[None]:
        # The server never calls the key holder: any address will do.
        self.addresses.setdefault(KEY_HOLDER_ID, "127.0.0.1:1")
        folder = self.settle(SERVER_ID, ORCHESTRATOR_ID, KEY_HOLDER_ID)
        with inference_server.running(folder):
            self.found(SERVER_ID, INFERENCE_SERVICE)
            yield

    @contextmanager
    def key_holder(self, **settings: object) -> Iterator[None]:
        folder = self.settle(KEY_HOLDER_ID, ORCHESTRATOR_ID, SERVER_ID, **settings)
        with key_holder.running(folder):
            self.found(KEY_HOLDER_ID, KEY_SERVICE)
            yield

    def found(self, who: SpiffeId, service: str, timeout_s: float = LONG_S) -> None:
        """Read the address a party wrote, and wait until it is healthy."""
        self.addresses[who] = (self.home(who) / "address").read_text()
        asker = self.identity(ORCHESTRATOR_ID)
        wait_ready(self.addresses[who], asker, who, service, timeout_s)

    @contextmanager
    def channel(self, caller: SpiffeId, to: SpiffeId) -> Iterator[grpc.Channel]:
        identity = self.identity(caller)
        with (
            open_channel(
                self.addresses[to], identity, to, deadline_s=LONG_S
            ) as channel,
            remote_errors(str(to)),
        ):
            yield channel

    @contextmanager
    def keys(
        self, caller: SpiffeId
    ) -> Iterator[key_holder_pb2_grpc.KeyHolderServiceStub]:
        with self.channel(caller, KEY_HOLDER_ID) as channel:
            yield key_holder_pb2_grpc.KeyHolderServiceStub(channel)

    @contextmanager
    def models(
        self, caller: SpiffeId
    ) -> Iterator[model_store_pb2_grpc.ModelStoreServiceStub]:
        with self.channel(caller, SERVER_ID) as channel:
            yield model_store_pb2_grpc.ModelStoreServiceStub(channel)

    def publish(self) -> None:
        """The provider hands over the two halves of its release."""
        with self.keys(PROVIDER_ID) as keys, self.models(PROVIDER_ID) as models:
            keys.StoreEmbedding(
                key_holder_pb2.StoreEmbeddingRequest(
                    model=MODEL, model_version=1, embedding=self.release.embedding
                )
            )
            models.StoreBackbone(
                iter(
                    [
                        model_store_pb2.StoreBackboneRequest(
                            model=MODEL, model_version=1, chunk=self.release.backbone
                        )
                    ]
                )
            )

    def draw(self, version: int = 1) -> None:
        request = key_holder_pb2.CreateKeyVersionRequest(
            key_id="k",
            version=version,
            owner=str(OWNER_ID),
            model=MODEL,
            patch_size=TINY.patch_size,
            channels=TINY.channels,
        )
        with self.keys(ORCHESTRATOR_ID) as keys:
            keys.CreateKeyVersion(request)

    def issue(self) -> None:
        """Have the model prepared, listed as pending, and sent."""
        names: dict[str, Any] = {
            "key_id": "k",
            "key_version": 1,
            "model": MODEL,
            "model_version": 1,
        }
        with self.keys(ORCHESTRATOR_ID) as keys:
            prepared = keys.PrepareIssuedModel(
                key_holder_pb2.PrepareIssuedModelRequest(**names)
            )
            said = json.loads(prepared.statement)
            issued = registry_pb2.IssuedModel(
                owner=said["owner"],
                digest=bytes.fromhex(said["digest"]),
                state="pending",
                **names,
            )
            self.registry.issued = [issued]
            keys.SendIssuedModel(key_holder_pb2.SendIssuedModelRequest(**names))
