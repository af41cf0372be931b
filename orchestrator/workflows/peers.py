"""What the workflows ask of the key holder and the inference server."""

from dataclasses import dataclass
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


class KeyHolder(Protocol):
    """Every call may be repeated: the second time nothing more happens."""

    def draw(self, key: KeyToDraw) -> DrawnKey:
        """Have a key version drawn, or learn again what was drawn."""
        ...

    def prepare(self, issue: IssueId) -> PreparedIssue:
        """Have the model transformed for the key version."""
        ...

    def send(self, issue: IssueId) -> None:
        """Have the prepared model sent to the inference server."""
        ...

    def destroy(self, key_id: str, version: int) -> None:
        """Have the seed destroyed; one that is not there is destroyed already."""
        ...


class InferenceServer(Protocol):
    """Every call may be repeated: the second time nothing more happens."""

    def delete(self, issue: IssueId) -> None:
        """Have an issued model deleted; one that is not there is deleted already."""
        ...


class RemoteKeyHolder:
    """The key holder at the other end of a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = key_holder_rpc.KeyHolderServiceStub(channel)

    def draw(self, key: KeyToDraw) -> DrawnKey:
        request = key_holder.CreateKeyVersionRequest(
            key_id=key.key_id,
            version=key.version,
            owner=key.owner,
            model=key.model,
            patch_size=key.patch_size,
            channels=key.channels,
        )
        with remote_errors("key holder"):
            answer = self._stub.CreateKeyVersion(request)
        return DrawnKey(answer.generator, answer.commitment)

    def prepare(self, issue: IssueId) -> PreparedIssue:
        request = key_holder.PrepareIssuedModelRequest(
            key_id=issue.key_id,
            key_version=issue.key_version,
            model=issue.model,
            model_version=issue.model_version,
        )
        with remote_errors("key holder"):
            answer = self._stub.PrepareIssuedModel(request)
        return PreparedIssue(answer.statement, answer.signature)

    def send(self, issue: IssueId) -> None:
        request = key_holder.SendIssuedModelRequest(
            key_id=issue.key_id,
            key_version=issue.key_version,
            model=issue.model,
            model_version=issue.model_version,
        )
        with remote_errors("key holder"):
            self._stub.SendIssuedModel(request)

    def destroy(self, key_id: str, version: int) -> None:
        request = key_holder.DestroyKeyVersionRequest(key_id=key_id, version=version)
        try:
            with remote_errors("key holder"):
                self._stub.DestroyKeyVersion(request)
        except RemoteError as error:
            _accept_absence(error)


class RemoteInferenceServer:
    """The inference server at the other end of a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = model_store_rpc.ModelStoreServiceStub(channel)

    def delete(self, issue: IssueId) -> None:
        request = model_store.DeleteIssuedModelRequest(
            key_id=issue.key_id,
            key_version=issue.key_version,
            model=issue.model,
            model_version=issue.model_version,
        )
        try:
            with remote_errors("inference server"):
                self._stub.DeleteIssuedModel(request)
        except RemoteError as error:
            _accept_absence(error)


def _accept_absence(error: RemoteError) -> None:
    if error.status is not grpc.StatusCode.NOT_FOUND:
        raise error
