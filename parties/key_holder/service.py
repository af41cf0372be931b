"""The key holder's gRPC service: decode, call, encode."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.orthogonal import GENERATOR
from core.rpc.policy import current_caller
from core.statements import DESTRUCTION, sign
from parties.audit import (
    AuditLog,
    Reporter,
    event_name,
    record_event,
    refusals_reported,
)
from parties.key_holder.delivery import Delivery
from parties.key_holder.derivations import Derivations
from parties.key_holder.identities import KeyIdentity
from parties.key_holder.inference_server import InferenceServer
from parties.key_holder.intake import take_embedding
from parties.key_holder.issuing import Issue, issue
from parties.key_holder.vault import Vault
from parties.registry import Registry, issued_in_use
from protos import key_holder_pb2 as pb
from protos import key_holder_pb2_grpc as rpc

# What names one issued model.
_Issued: TypeAlias = (
    pb.PrepareIssuedModelRequest
    | pb.SendIssuedModelRequest
    | pb.FetchIssuedModelRequest
)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["KeyHolderService"].full_name


@dataclass(frozen=True, slots=True)
class Office:
    """All that the service works with: its store, its pen, and the other parties."""

    vault: Vault
    delivery: Delivery
    signing_key: Ed25519PrivateKey = field(repr=False)
    registry: Registry
    inference_server: InferenceServer
    audit: AuditLog
    reporter: Reporter
    derivations: Derivations = field(default_factory=Derivations)


class KeyHolderService(rpc.KeyHolderServiceServicer):
    """Every method may be called again: the answer is the same."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def StoreEmbedding(
        self, request: pb.StoreEmbeddingRequest, _context: grpc.ServicerContext
    ) -> pb.StoreEmbeddingResponse:
        named = {"model": request.model, "model_version": str(request.model_version)}
        with self._answering("StoreEmbedding", named) as caller:

            def record(digest: str) -> None:
                self._record(
                    "embedding.stored",
                    caller,
                    named | {"digest": digest},
                    key=f"{request.model}/{request.model_version}",
                )

            take_embedding(
                self._office.vault,
                self._office.registry,
                provider=caller,
                model=request.model,
                version=request.model_version,
                content=request.embedding,
                record=record,
            )
            return pb.StoreEmbeddingResponse()

    def CreateKeyVersion(
        self, request: pb.CreateKeyVersionRequest, _context: grpc.ServicerContext
    ) -> pb.CreateKeyVersionResponse:
        named = _key(request.key_id, request.version)
        with self._answering("CreateKeyVersion", named):
            commitment = self._office.vault.create_key(_identity(request))
            return pb.CreateKeyVersionResponse(
                generator=GENERATOR, commitment=commitment
            )

    def FetchSealedKey(
        self, request: pb.FetchSealedKeyRequest, _context: grpc.ServicerContext
    ) -> pb.FetchSealedKeyResponse:
        named = _key(request.key_id, request.version)
        with self._answering("FetchSealedKey", named) as caller:
            sealed = self._office.delivery.seal_for(
                caller, request.key_id, request.version, request.sealing_key
            )
            self._record("key.fetched", caller, named)
            return pb.FetchSealedKeyResponse(
                envelope=sealed.envelope,
                signature=sealed.signature,
                expires_at_ms=sealed.expires_at_ms,
            )

    def ProvePossession(
        self, request: pb.ProvePossessionRequest, _context: grpc.ServicerContext
    ) -> pb.ProvePossessionResponse:
        named = _key(request.key_id, request.version)
        with self._answering("ProvePossession", named) as caller:
            self._office.delivery.accept_proof(
                caller, request.key_id, request.version, request.tag
            )
            return pb.ProvePossessionResponse()

    def PrepareIssuedModel(
        self, request: pb.PrepareIssuedModelRequest, _context: grpc.ServicerContext
    ) -> pb.PrepareIssuedModelResponse:
        named = _issued(request)
        with self._answering("PrepareIssuedModel", named):
            issued = self._issue(request)
            return pb.PrepareIssuedModelResponse(
                statement=issued.statement, signature=issued.signature
            )

    def SendIssuedModel(
        self, request: pb.SendIssuedModelRequest, _context: grpc.ServicerContext
    ) -> pb.SendIssuedModelResponse:
        named = _issued(request)
        with self._answering("SendIssuedModel", named):
            self._office.inference_server.store_issued_model(
                self._issue(request), request.idempotency_key
            )
            return pb.SendIssuedModelResponse()

    def FetchIssuedModel(
        self, request: pb.FetchIssuedModelRequest, _context: grpc.ServicerContext
    ) -> pb.FetchIssuedModelResponse:
        with self._answering("FetchIssuedModel", _issued(request)):
            issued_in_use(
                self._office.registry,
                request.key_id,
                request.key_version,
                request.model,
                request.model_version,
            )
            issued = self._issue(request)
            return pb.FetchIssuedModelResponse(
                statement=issued.statement,
                signature=issued.signature,
                embedding=issued.embedding,
            )

    def DestroyKeyVersion(
        self, request: pb.DestroyKeyVersionRequest, _context: grpc.ServicerContext
    ) -> pb.DestroyKeyVersionResponse:
        named = _key(request.key_id, request.version)
        with self._answering("DestroyKeyVersion", named):
            receipt = self._office.vault.destroy_key(
                request.key_id, request.version, self._sign_destruction
            )
            if receipt is None:
                return pb.DestroyKeyVersionResponse()
            return pb.DestroyKeyVersionResponse(
                receipt=receipt.receipt, signature=receipt.signature
            )

    def ExportKeyVersion(
        self, request: pb.ExportKeyVersionRequest, _context: grpc.ServicerContext
    ) -> pb.ExportKeyVersionResponse:
        named = _key(request.key_id, request.version)
        with self._answering("ExportKeyVersion", named) as caller:
            sealed = self._office.delivery.export(request.key_id, request.version)
            self._record("key.sealed_for_recovery", caller, named)
            return pb.ExportKeyVersionResponse(
                envelope=sealed.envelope,
                signature=sealed.signature,
                expires_at_ms=sealed.expires_at_ms,
            )

    def _issue(self, request: _Issued) -> Issue:
        with self._office.derivations.turn():
            return issue(
                self._office.vault,
                self._office.signing_key,
                key_id=request.key_id,
                key_version=request.key_version,
                model=request.model,
                model_version=request.model_version,
            )

    def _sign_destruction(self, receipt: bytes) -> bytes:
        return sign(self._office.signing_key, DESTRUCTION, receipt)

    def _record(
        self, kind: str, caller: str, subject: dict[str, str], *, key: str = ""
    ) -> None:
        """Record what is done; under the same key again, it is recorded once."""
        record_event(
            self._office.audit,
            kind,
            caller=caller,
            subject=subject,
            event_id=event_name(key, kind),
        )

    @contextmanager
    def _answering(self, method: str, subject: dict[str, str]) -> Iterator[str]:
        """Give the caller's SPIFFE ID, and report what is refused.

        Errors leave as they are: the guard translates them to a status.
        """
        caller = str(current_caller())
        called = f"/{SERVICE_NAME}/{method}"
        with refusals_reported(self._office.reporter, caller, called, subject):
            yield caller


def _identity(request: pb.CreateKeyVersionRequest) -> KeyIdentity:
    return KeyIdentity(
        key_id=request.key_id,
        version=request.version,
        owner=request.owner,
        model=request.model,
        generator=GENERATOR,
        patch_size=request.patch_size,
        channels=request.channels,
    )


def _key(key_id: str, version: int) -> dict[str, str]:
    return {"key_id": key_id, "key_version": str(version)}


def _issued(request: _Issued) -> dict[str, str]:
    return _key(request.key_id, request.key_version) | {
        "model": request.model,
        "model_version": str(request.model_version),
    }
