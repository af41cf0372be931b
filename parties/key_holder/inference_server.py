"""The inference server as the key holder sees it: a port, and its gRPC client."""

from typing import Protocol

import grpc

from core.rpc.errors import remote_errors
from parties.key_holder.issuing import Issue
from protos import model_store_pb2 as pb
from protos import model_store_pb2_grpc as rpc


class InferenceServer(Protocol):
    """Where issued models go."""

    def store_issued_model(self, issue: Issue, idempotency_key: str) -> None:
        """Deliver an issued model; delivered again, it is stored and recorded once."""
        ...


class GrpcInferenceServer:
    """The inference server over a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = rpc.ModelStoreServiceStub(channel)

    def store_issued_model(self, issue: Issue, idempotency_key: str) -> None:
        request = pb.StoreIssuedModelRequest(
            statement=issue.statement,
            signature=issue.signature,
            embedding=issue.embedding,
            idempotency_key=idempotency_key,
        )
        with remote_errors("inference server"):
            self._stub.StoreIssuedModel(request)
