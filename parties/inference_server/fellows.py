"""Those who have what a replica lacks: the other replicas, and the key holder."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from core.errors import KeymixerError, PeerUnavailable
from core.rpc.errors import remote_errors
from parties.inference_server.intake import SignedIssue, gather
from parties.inference_server.store import IssuedName, ModelName
from protos import key_holder_pb2 as key_pb
from protos import key_holder_pb2_grpc as key_rpc
from protos import model_store_pb2 as store_pb
from protos import model_store_pb2_grpc as store_rpc

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Fellows:
    """Each at the end of a channel; a replica may be among its own fellows.

    Args:
        replicas: Asked one after the other.
        key_holder: None: there is none to ask.
        max_backbone_bytes: More is not read.
    """

    replicas: Sequence[grpc.Channel]
    key_holder: grpc.Channel | None
    max_backbone_bytes: int

    def backbone(self, name: ModelName) -> bytes:
        """The first that a replica gives. Raises `PeerUnavailable` if none does."""
        for channel in self.replicas:
            try:
                with remote_errors("inference server"):
                    return gather(_chunks(channel, name), self.max_backbone_bytes)
            except KeymixerError as error:
                log.info("not there either", extra={"kind": error.kind})
        raise PeerUnavailable("no replica has the backbone")

    def issue(self, name: IssuedName) -> SignedIssue:
        """Have the key holder make it again."""
        if self.key_holder is None:
            raise PeerUnavailable("the settings name no key holder")
        request = key_pb.FetchIssuedModelRequest(
            key_id=name.key_id,
            key_version=name.key_version,
            model=name.model,
            model_version=name.model_version,
        )
        with remote_errors("key holder"):
            stub = key_rpc.KeyHolderServiceStub(self.key_holder)
            return stub.FetchIssuedModel(request)


def _chunks(channel: grpc.Channel, name: ModelName) -> Iterator[bytes]:
    request = store_pb.FetchBackboneRequest(
        model=name.model, model_version=name.version
    )
    for each in store_rpc.ModelStoreServiceStub(channel).FetchBackbone(request):
        yield each.chunk
