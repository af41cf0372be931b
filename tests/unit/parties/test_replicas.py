"""Those who deliver to replicas, and delete from them: who must be there, who need not.

Each replica is a server of its own, or nobody behind an address.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from core.errors import ConfigurationError, NotFound, PeerUnavailable
from core.rpc.errors import RemoteError, rpc_errors
from core.rpc.settings import read_servers
from orchestrator.workflows.peers import IssueId, RemoteInferenceServer
from parties.inference_server.fellows import Fellows
from parties.inference_server.store import ModelName
from parties.key_holder.inference_server import GrpcInferenceServer
from parties.key_holder.issuing import Issue
from protos import model_store_pb2 as pb
from protos import model_store_pb2_grpc as rpc

NOBODY = "127.0.0.1:1"
ISSUE = Issue(b"statement", bytes(64), b"embedding")
NAME = IssueId("k", 1, "cells", 1)


@dataclass
class Replica(rpc.ModelStoreServiceServicer):
    """Takes what it is given; `lacks` makes it refuse all of it."""

    lacks: bool = False
    stored: list[bytes] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    def StoreBackbone(
        self,
        request_iterator: Iterator[pb.StoreBackboneRequest],
        context: grpc.ServicerContext,
    ) -> pb.StoreBackboneResponse:
        raise NotImplementedError

    def StoreIssuedModel(
        self, request: pb.StoreIssuedModelRequest, context: grpc.ServicerContext
    ) -> pb.StoreIssuedModelResponse:
        with rpc_errors(context):
            self._answer()
            self.stored.append(request.embedding)
            return pb.StoreIssuedModelResponse()

    def DeleteIssuedModel(
        self, request: pb.DeleteIssuedModelRequest, context: grpc.ServicerContext
    ) -> pb.DeleteIssuedModelResponse:
        with rpc_errors(context):
            self._answer()
            self.deleted.append(request.key_id)
            return pb.DeleteIssuedModelResponse()

    def FetchBackbone(
        self, request: pb.FetchBackboneRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.FetchBackboneResponse]:
        with rpc_errors(context):
            self._answer()
            for chunk in (b"back", b"bone"):
                yield pb.FetchBackboneResponse(chunk=chunk)

    def _answer(self) -> None:
        if self.lacks:
            raise NotFound("not here")


@contextmanager
def connected(*replicas: Replica | None) -> Iterator[list[grpc.Channel]]:
    """A channel to each; None: nobody is there."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(8))
        channels = []
        for each in replicas:
            address = NOBODY
            if each is not None:
                server = grpc.server(pool)
                rpc.add_ModelStoreServiceServicer_to_server(each, server)
                address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
                server.start()
                stack.callback(server.stop, None)
            channels.append(stack.enter_context(grpc.insecure_channel(address)))
        yield channels


def test_an_issued_model_is_delivered_to_every_replica_that_is_there() -> None:
    first, last = Replica(), Replica()
    with connected(first, None, Replica(lacks=True), last) as channels:
        GrpcInferenceServer(channels).store_issued_model(ISSUE, "1/send")

    assert first.stored == last.stored == [b"embedding"]


def test_a_delivery_that_nobody_took_is_tried_again_if_that_may_help() -> None:
    """One refuses for good, as it seems; but the other may take it later."""
    with (
        connected(Replica(lacks=True), None) as channels,
        pytest.raises(PeerUnavailable),
    ):
        GrpcInferenceServer(channels).store_issued_model(ISSUE, "1/send")
    with (
        connected(Replica(lacks=True)) as channels,
        pytest.raises(RemoteError, match="NotFound"),
    ):
        GrpcInferenceServer(channels).store_issued_model(ISSUE, "1/send")


def test_what_is_deleted_is_gone_from_every_replica() -> None:
    replicas = [Replica(), Replica(lacks=True), Replica()]
    with connected(*replicas) as channels:
        RemoteInferenceServer(channels).delete(NAME, "1/remove")

    assert [["k"], [], ["k"]] == [each.deleted for each in replicas]


def test_a_replica_that_is_away_keeps_a_deletion_from_being_done() -> None:
    with connected(Replica(), None) as channels, pytest.raises(PeerUnavailable):
        RemoteInferenceServer(channels).delete(NAME, "1/remove")


def test_a_backbone_is_had_from_the_first_that_has_it() -> None:
    with connected(None, Replica(lacks=True), Replica()) as channels:
        found = Fellows(channels, None, 8).backbone(ModelName("cells", 1))

    assert found == b"backbone"


def test_a_backbone_that_is_too_large_is_not_read() -> None:
    with connected(Replica()) as channels, pytest.raises(PeerUnavailable):
        Fellows(channels, None, 7).backbone(ModelName("cells", 1))


def test_replicas_are_one_party() -> None:
    def server(organisation: str) -> dict[str, str]:
        spiffe = f"spiffe://demo/{organisation}/inference-server"
        return {"address": NOBODY, "spiffe_id": spiffe}

    alone = {"inference_server": server("cloudrow")}

    assert [NOBODY] == [each.address for each in read_servers(alone)]
    three = alone | {"inference_servers": [server("cloudrow")] * 3}
    assert 3 == len(read_servers(three))
    with pytest.raises(ConfigurationError, match="inference_servers"):
        read_servers(alone | {"inference_servers": [server("rival")]})
    with pytest.raises(ConfigurationError, match="expected a list"):
        read_servers(alone | {"inference_servers": "all of them"})
