"""What the workflows ask of the key holder and the inference server.

Every call that changes something carries an idempotency key: made again after a lost
answer, it has happened, and is recorded, once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from core.rpc.errors import RemoteError, remote_errors
from protos import key_holder_pb2 as key_holder
from protos import key_holder_pb2_grpc as key_holder_rpc
from protos import model_store_pb2 as model_store
from protos import model_store_pb2_grpc as model_store_rpc


@dataclass(frozen=True, slots=True)
class KeyToDraw:
    """Everything the key holder must know to draw a key version."""

    key_id: str
    version: int
    owner: str
    model: str
    patch_size: int
    channels: int


@dataclass(frozen=True, slots=True)
class DrawnKey:
    """The public identity of a key version: the recipe and a 32-byte commitment."""

    generator: str
    commitment: bytes


@dataclass(frozen=True, slots=True, order=True)
class IssueId:
    """Names one issued model: a model version under a key version."""

    key_id: str
    key_version: int
    model: str
    model_version: int


@dataclass(frozen=True, slots=True)
class PreparedIssue:
    """The key holder's signed statement of what it will send."""

    statement: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """The key holder's word that a seed is gone; empty if there never was one."""

    receipt: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SealedExport:
    """A key version that only the recovery key opens; see `core.sealing`."""

    envelope: bytes = field(repr=False)
    signature: bytes
    expires_at_ms: int


class KeyHolder(Protocol):
    """Every call may be repeated: the second time nothing more happens."""

    def draw(self, key: KeyToDraw, idempotency_key: str) -> DrawnKey:
        """Have a key version drawn, or learn again what was drawn."""
        ...

    def prepare(self, issue: IssueId, idempotency_key: str) -> PreparedIssue:
        """Have the model transformed for the key version."""
        ...

    def send(self, issue: IssueId, idempotency_key: str) -> None:
        """Have the prepared model sent to the inference server."""
        ...

    def destroy(self, key_id: str, version: int, idempotency_key: str) -> SignedReceipt:
        """Have the seed destroyed; one that is not there is destroyed already."""
        ...

    def export(self, key_id: str, version: int) -> SealedExport:
        """Have the seed sealed to the recovery key that the key holder has pinned."""
        ...


class InferenceServer(Protocol):
    """Every call may be repeated: the second time nothing more happens."""

    def delete(self, issue: IssueId, idempotency_key: str) -> None:
        """Have an issued model deleted; one that is not there is deleted already."""
        ...


@dataclass(frozen=True, slots=True)
class Peers:
    """The parties that the workflows drive."""

    key_holder: KeyHolder
    inference_server: InferenceServer
    # The key holder's SPIFFE ID: who must have signed what it says.
    key_holder_id: str


class RemoteKeyHolder:
    """The key holder at the other end of a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = key_holder_rpc.KeyHolderServiceStub(channel)

    def draw(self, key: KeyToDraw, idempotency_key: str) -> DrawnKey:
        request = key_holder.CreateKeyVersionRequest(
            key_id=key.key_id,
            version=key.version,
            owner=key.owner,
            model=key.model,
            patch_size=key.patch_size,
            channels=key.channels,
            idempotency_key=idempotency_key,
        )
        with remote_errors("key holder"):
            answer = self._stub.CreateKeyVersion(request)
        return DrawnKey(answer.generator, answer.commitment)

    def prepare(self, issue: IssueId, idempotency_key: str) -> PreparedIssue:
        request = key_holder.PrepareIssuedModelRequest(
            key_id=issue.key_id,
            key_version=issue.key_version,
            model=issue.model,
            model_version=issue.model_version,
            idempotency_key=idempotency_key,
        )
        with remote_errors("key holder"):
            answer = self._stub.PrepareIssuedModel(request)
        return PreparedIssue(answer.statement, answer.signature)

    def send(self, issue: IssueId, idempotency_key: str) -> None:
        request = key_holder.SendIssuedModelRequest(
            key_id=issue.key_id,
            key_version=issue.key_version,
            model=issue.model,
            model_version=issue.model_version,
            idempotency_key=idempotency_key,
        )
        with remote_errors("key holder"):
            self._stub.SendIssuedModel(request)

    def destroy(self, key_id: str, version: int, idempotency_key: str) -> SignedReceipt:
        request = key_holder.DestroyKeyVersionRequest(
            key_id=key_id, version=version, idempotency_key=idempotency_key
        )
        with remote_errors("key holder"):
            answer = self._stub.DestroyKeyVersion(request)
        return SignedReceipt(answer.receipt, answer.signature)

    def export(self, key_id: str, version: int) -> SealedExport:
        request = key_holder.ExportKeyVersionRequest(key_id=key_id, version=version)
        with remote_errors("key holder"):
            answer = self._stub.ExportKeyVersion(request)
        return SealedExport(answer.envelope, answer.signature, answer.expires_at_ms)


class RemoteInferenceServer:
    """The replicas of the inference server, each at the end of a channel.

    What is deleted is gone from every one of them: one that is away is waited for.
    """

    def __init__(self, channels: Sequence[grpc.Channel]) -> None:
        self._stubs = [
            model_store_rpc.ModelStoreServiceStub(channel) for channel in channels
        ]

    def delete(self, issue: IssueId, idempotency_key: str) -> None:
        request = model_store.DeleteIssuedModelRequest(
            key_id=issue.key_id,
            key_version=issue.key_version,
            model=issue.model,
            model_version=issue.model_version,
            idempotency_key=idempotency_key,
        )
        for stub in self._stubs:
            with _absence_accepted(), remote_errors("inference server"):
                stub.DeleteIssuedModel(request)


@contextmanager
def _absence_accepted() -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        if error.status is not grpc.StatusCode.NOT_FOUND:
            raise
