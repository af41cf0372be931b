"""A role alone commands nobody: the party must be the one the settings name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.rpc.errors import RemoteError
from core.rpc.identity import KEY_HOLDER, ORCHESTRATOR, SpiffeId
from parties.inference_server.settings import Settings
from protos import key_holder_pb2, model_store_pb2
from tests.integration.cast import Cast
from tests.unit.parties.stage import ORCHESTRATOR_ID, SERVER_ID

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


def test_an_inference_server_need_not_know_its_key_holder(cast: Cast) -> None:
    folder = cast.settle(SERVER_ID, ORCHESTRATOR_ID)

    assert Settings.read(folder).key_holder is None
