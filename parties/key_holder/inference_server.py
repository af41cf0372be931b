"""The inference server as the key holder sees it: a port, and its gRPC client."""

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import grpc

from core.errors import KeymixerError, Unavailable
from core.rpc.errors import remote_errors
from parties.key_holder.issuing import Issue
from protos import model_store_pb2 as pb
from protos import model_store_pb2_grpc as rpc

log = logging.getLogger(__name__)

# What one replica may take while others have answered.
_DELIVERY_S: Final = 5.0


class InferenceServer(Protocol):
    """Where issued models go."""

    def store_issued_model(self, issue: Issue, idempotency_key: str) -> None:
        """Deliver an issued model; delivered again, it is stored and recorded once."""
        ...


class GrpcInferenceServer:
    """The replicas of the inference server, each over a channel of its own.

    All of them are given it at the same time. One that is away fetches it later, when
    it is asked for it: so one that has it is enough.
    """

    def __init__(self, channels: Sequence[grpc.Channel]) -> None:
        self._stubs = [rpc.ModelStoreServiceStub(channel) for channel in channels]

    def store_issued_model(self, issue: Issue, idempotency_key: str) -> None:
        request = pb.StoreIssuedModelRequest(
            statement=issue.statement,
            signature=issue.signature,
            embedding=issue.embedding,
            idempotency_key=idempotency_key,
        )
        timeout_s = _DELIVERY_S if len(self._stubs) > 1 else None
        sent = [
            stub.StoreIssuedModel.future(request, timeout=timeout_s)
            for stub in self._stubs
        ]
        failures = [why for each in sent if (why := _failure(each)) is not None]
        if len(failures) == len(sent):
            # What works later comes before what does not: then it is tried again.
            raise min(failures, key=lambda why: not isinstance(why, Unavailable))


def _failure(
    sent: "grpc.Future[pb.StoreIssuedModelResponse]",
) -> KeymixerError | None:
    try:
        with remote_errors("inference server"):
            sent.result()
    except KeymixerError as error:
        log.info("not delivered", extra={"kind": error.kind, "why": str(error)})
        return error
    return None
