"""The inference server as a process among others: real TLS, restarts, hostile bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from core.blocks import encrypt
from core.errors import PeerUnavailable, Unavailable
from core.keys import BlockKey, derive_key
from core.rpc.errors import RemoteError
from core.rpc.identity import SpiffeId
from parties.inference_server import __main__ as inference_server
from protos import model_store_pb2
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as rpc
from tests.integration.cast import INFERENCE_SERVICE, Cast
from tests.integration.hub import wait_until
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    ORCHESTRATOR_ID,
    OTHER_OWNER_ID,
    OWNER_ID,
    SERVER_ID,
    images,
)
from tests.unit.parties.strongroom import opened

INFER = f"/{INFERENCE_SERVICE}/ModelInfer"


@pytest.fixture
def cast(tmp_path: Path) -> Iterator[Cast]:
    """With a release, a key and an issued model; the key holder has done its part."""
    cast = Cast(tmp_path)
    with cast.orchestrator():
        with cast.inference_server(), cast.key_holder():
            cast.publish()
            cast.draw()
            cast.issue()
        cast.audit.events.clear()
        yield cast


@contextmanager
def asking(cast: Cast, who: SpiffeId) -> Iterator[rpc.GRPCInferenceServiceStub]:
    with cast.channel(who, SERVER_ID) as channel:
        yield rpc.GRPCInferenceServiceStub(channel)


def owners_key(cast: Cast) -> BlockKey:
    seed = drawn_seed(cast)
    return derive_key(seed, key_id="k", version=1, patch_size=4, channels=3)


def drawn_seed(cast: Cast) -> bytes:
    """From the key holder's own store: no owner fetches it here."""
    with opened(cast.home(KEY_HOLDER_ID)) as vault, vault.open_seed("k", 1) as lent:
        return bytes(lent)


def question(cast: Cast) -> pb.ModelInferRequest:
    blocks = encrypt(images(3), owners_key(cast))
    request = pb.ModelInferRequest(
        model_name=MODEL, raw_input_contents=[blocks.astype("<f4").tobytes()]
    )
    request.inputs.add(name="encrypted_blocks", datatype="FP32", shape=blocks.shape)
    request.parameters["key_id"].string_param = "k"
    request.parameters["key_version"].int64_param = 1
    return request


def infer(cast: Cast, request: pb.ModelInferRequest, who: SpiffeId) -> np.ndarray:
    with asking(cast, who) as stub:
        answer = stub.ModelInfer(request)
    raw = np.frombuffer(answer.raw_output_contents[0], "<f4")
    return raw.reshape(tuple(answer.outputs[0].shape))


def still_serves(cast: Cast) -> None:
    with torch.inference_mode():
        plain = cast.release.model(torch.from_numpy(images(3))).numpy()

    logits = infer(cast, question(cast), OWNER_ID)
    np.testing.assert_allclose(plain, logits, atol=1e-5)


def test_the_plain_models_answer_comes_through_the_wire(cast: Cast) -> None:
    with cast.inference_server():
        still_serves(cast)

    assert [3] == [record.images for record in cast.audit.records]


def test_an_owner_that_asks_with_anothers_key_is_refused_once_on_record(
    cast: Cast,
) -> None:
    with cast.inference_server():
        with pytest.raises(RemoteError) as caught:
            infer(cast, question(cast), OTHER_OWNER_ID)
        still_serves(cast)

    assert (caught.value.kind, caught.value.status) == (
        "NotAllowed",
        grpc.StatusCode.PERMISSION_DENIED,
    )
    (refused,) = cast.audit.of_kind("refused")
    assert (refused["caller"], refused["key_id"]) == (str(OTHER_OWNER_ID), "k")


def test_a_party_that_is_no_owner_may_not_ask(cast: Cast) -> None:
    with cast.inference_server():
        with pytest.raises(RemoteError) as caught:
            infer(cast, question(cast), KEY_HOLDER_ID)
        still_serves(cast)

    assert caught.value.kind == "NotAllowed"
    assert cast.audit.of_kind("refused")[0]["method"] == INFER


def test_an_unknown_owner_of_the_federation_is_refused(cast: Cast) -> None:
    stranger = SpiffeId("demo", "stranger", "data-owner")
    with cast.inference_server():
        with pytest.raises(RemoteError) as caught:
            infer(cast, question(cast), stranger)
        still_serves(cast)

    assert caught.value.kind == "NotAllowed"


def test_a_refusal_tells_the_kind_and_a_constant_hint(cast: Cast) -> None:
    request = question(cast)
    request.inputs[0].shape[0] = 2
    with cast.inference_server(), pytest.raises(RemoteError) as caught:
        infer(cast, request, OWNER_ID)

    assert caught.value.kind == "Truncated"
    assert caught.value.status is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.hint.startswith("send the tensor again")


@pytest.mark.parametrize("junk", [b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x00"])
def test_bytes_that_are_no_message_harm_nobody(cast: Cast, junk: bytes) -> None:
    with cast.inference_server():
        with pytest.raises(RemoteError), cast.channel(OWNER_ID, SERVER_ID) as channel:
            channel.unary_unary(INFER, bytes, bytes)(junk)
        still_serves(cast)


def test_a_message_over_the_limit_harms_nobody(cast: Cast) -> None:
    with cast.inference_server():
        with pytest.raises(RemoteError) as caught, asking(cast, OWNER_ID) as stub:
            stub.ModelInfer(
                pb.ModelInferRequest(raw_input_contents=[bytes((16 << 20) + 1)])
            )
        still_serves(cast)

    assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_no_audit_no_answer_over_the_wire(cast: Cast) -> None:
    with cast.inference_server():
        cast.audit.away = True
        with pytest.raises(Unavailable) as caught:
            infer(cast, question(cast), OWNER_ID)
        cast.audit.away = False
        still_serves(cast)

    assert caught.value.kind == "AuditUnavailable"


def test_a_damaged_backbone_is_not_served_after_a_restart(cast: Cast) -> None:
    (path,) = cast.home(SERVER_ID).glob("backbones/*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with cast.inference_server(), pytest.raises(RemoteError) as caught:
        infer(cast, question(cast), OWNER_ID)

    assert caught.value.kind == "NotFound"
    assert "Signature" in [each["kind"] for each in cast.audit.of_kind("refused")]


def test_a_deleted_issued_model_is_refused_at_once(cast: Cast) -> None:
    request = model_store_pb2.DeleteIssuedModelRequest(
        key_id="k", key_version=1, model=MODEL, model_version=1
    )
    with cast.inference_server():
        with cast.models(ORCHESTRATOR_ID) as models:
            models.DeleteIssuedModel(request)
        with pytest.raises(RemoteError) as caught:
            infer(cast, question(cast), OWNER_ID)

    assert caught.value.kind == "KeyRefused"
    assert not list(cast.home(SERVER_ID).glob("issued/*"))


def test_the_server_holds_neither_the_key_nor_the_plain_embedding(cast: Cast) -> None:
    weight = cast.release.weight
    seed = drawn_seed(cast)
    files = [p for p in cast.home(SERVER_ID).rglob("*") if p.is_file()]

    assert [path for path in files if path.suffix == ".safetensors"]
    for path in files:
        content = path.read_bytes()
        assert seed not in content
        assert not [row for row in weight if row.tobytes()[:32] in content]


@pytest.mark.slow
def test_health_follows_the_registry(tmp_path: Path) -> None:
    """Not serving before its orchestrator is there, nor after it went away."""
    cast = Cast(tmp_path)
    with cast.orchestrator():
        folder = cast.settle(SERVER_ID, ORCHESTRATOR_ID)
    with inference_server.running(folder):
        with pytest.raises(PeerUnavailable, match="NOT_SERVING"):
            cast.found(SERVER_ID, INFERENCE_SERVICE, timeout_s=1)
        with cast.orchestrator(cast.addresses[ORCHESTRATOR_ID]):
            cast.found(SERVER_ID, INFERENCE_SERVICE)
        wait_until(lambda: not healthy(cast))

    assert not cast.registry.party(str(SERVER_ID)).signing_key, "it signs nothing"


def healthy(cast: Cast) -> bool:
    try:
        cast.found(SERVER_ID, INFERENCE_SERVICE, timeout_s=0.2)
    except PeerUnavailable:
        return False
    return True
