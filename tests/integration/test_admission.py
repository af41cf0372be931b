"""A role alone commands nobody: the party must be the one the settings name."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import KeymixerError
from core.rpc.errors import RemoteError, remote_errors
from core.rpc.identity import KEY_HOLDER, ORCHESTRATOR, SpiffeId
from parties.inference_server.settings import Settings
from protos import key_holder_pb2, model_store_pb2
from tests.integration.cast import Cast
from tests.integration.hub import wait_until
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    ORCHESTRATOR_ID,
    OTHER_OWNER_ID,
    OWNER_ID,
    PROVIDER_ID,
    SERVER_ID,
)

OTHER_ORCHESTRATOR = SpiffeId("demo", "usurper", ORCHESTRATOR)
OTHER_KEY_HOLDER = SpiffeId("demo", "usurper", KEY_HOLDER)


@pytest.fixture
def cast(tmp_path: Path) -> Iterator[Cast]:
    cast = Cast(tmp_path)
    with cast.orchestrator():
        yield cast


def refused(cast: Cast, caller: SpiffeId, error: RemoteError) -> bool:
    """Whether the caller was refused, and that is in the log once the party ended."""
    callers = {each["caller"] for each in cast.audit.of_kind("refused")}
    return error.kind == "NotAllowed" and callers == {str(caller)}


def test_another_organisations_orchestrator_commands_no_key_holder(cast: Cast) -> None:
    request = key_holder_pb2.DestroyKeyVersionRequest(key_id="k", version=1)
    with cast.inference_server(), cast.key_holder():
        cast.draw()
        with (
            pytest.raises(RemoteError) as caught,
            cast.keys(OTHER_ORCHESTRATOR) as keys,
        ):
            keys.DestroyKeyVersion(request)
        # Drawing it again gives the same key: it was not destroyed.
        cast.draw()

    assert refused(cast, OTHER_ORCHESTRATOR, caught.value)


def test_another_organisations_orchestrator_deletes_no_issued_model(
    cast: Cast,
) -> None:
    request = model_store_pb2.DeleteIssuedModelRequest(
        key_id="k", key_version=1, model="cells", model_version=1
    )
    with cast.inference_server():
        with (
            pytest.raises(RemoteError) as caught,
            cast.models(OTHER_ORCHESTRATOR) as models,
        ):
            models.DeleteIssuedModel(request)
        with cast.models(ORCHESTRATOR_ID) as models:
            models.DeleteIssuedModel(request)

    assert refused(cast, OTHER_ORCHESTRATOR, caught.value)


def test_another_organisations_key_holder_delivers_nothing(cast: Cast) -> None:
    with (
        cast.inference_server(),
        pytest.raises(RemoteError) as caught,
        cast.models(OTHER_KEY_HOLDER) as models,
    ):
        models.StoreIssuedModel(model_store_pb2.StoreIssuedModelRequest())

    assert refused(cast, OTHER_KEY_HOLDER, caught.value)


def kind_of(call: Callable[[], object]) -> str:
    try:
        with remote_errors("party"):
            call()
    except KeymixerError as error:
        return error.kind
    return ""


def revoke(cast: Cast, party: SpiffeId) -> None:
    cast.registry.parties[str(party)].state = "revoked"


def test_a_revoked_owners_open_connection_to_the_key_holder_is_served_no_more(
    cast: Cast,
) -> None:
    request = key_holder_pb2.FetchSealedKeyRequest(key_id="none", version=1)
    with (
        cast.inference_server(),
        cast.key_holder(),
        cast.keys(OWNER_ID) as keys,
        cast.keys(OTHER_OWNER_ID) as others,
    ):
        assert kind_of(lambda: keys.FetchSealedKey(request)) == "NotFound"
        revoke(cast, OWNER_ID)
        wait_until(
            lambda: kind_of(lambda: keys.FetchSealedKey(request)) == "NotAllowed"
        )

        assert kind_of(lambda: others.FetchSealedKey(request)) == "NotFound"


def test_a_revoked_provider_starts_no_more_uploads(cast: Cast) -> None:
    def upload() -> Iterator[model_store_pb2.StoreBackboneRequest]:
        yield model_store_pb2.StoreBackboneRequest(
            model=MODEL, model_version=1, chunk=cast.release.backbone
        )

    with cast.inference_server(), cast.models(PROVIDER_ID) as models:
        assert kind_of(lambda: models.StoreBackbone(upload())) == ""
        revoke(cast, PROVIDER_ID)
        wait_until(
            lambda: kind_of(lambda: models.StoreBackbone(upload())) == "NotAllowed"
        )


def test_a_revoked_key_holder_delivers_no_more(cast: Cast) -> None:
    request = model_store_pb2.StoreIssuedModelRequest()
    with cast.inference_server(), cast.models(KEY_HOLDER_ID) as models:
        assert kind_of(lambda: models.StoreIssuedModel(request)) == "Signature"
        revoke(cast, KEY_HOLDER_ID)
        wait_until(
            lambda: kind_of(lambda: models.StoreIssuedModel(request)) == "NotAllowed"
        )


def test_an_inference_server_need_not_know_its_key_holder(cast: Cast) -> None:
    folder = cast.settle(SERVER_ID, ORCHESTRATOR_ID)

    assert Settings.read(folder).key_holder is None
