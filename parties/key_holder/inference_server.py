"""The inference server as the key holder sees it: a port, and its gRPC client."""

from typing import Protocol

import grpc

from core.rpc.errors import remote_errors
from parties.key_holder.issuing import Issue
from protos import model_store_pb2 as pb
from protos import model_store_pb2_grpc as rpc


class InferenceServer(Protocol):
    """Where issued models go."""

    def store_issued_model(self, issue: Issue) -> None:
        """Deliver an issued model; delivering it twice is not an error."""
        ...


class GrpcInferenceServer:
    """The inference server over a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = rpc.ModelStoreServiceStub(channel)

    def store_issued_model(self, issue: Issue) -> None:
        request = pb.StoreIssuedModelRequest(
            statement=issue.statement,
            signature=issue.signature,
            embedding=issue.embedding,
        )
        with remote_errors("inference server"):
            self._stub.StoreIssuedModel(request)
