"""What a server has seen of an embedding: over all keys, and never given back."""

import pytest

from core.rpc.policy import acting_as
from orchestrator.registry import sight, store
from orchestrator.registry.service import RegistryService
from orchestrator.registry.sight import Seen
from orchestrator.workflows import issuing
from protos import registry_pb2
from tests.fakes import fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    OPERATOR_ID,
    Office,
    register_model,
)

# Pictures of 32x32 in patches of 4.
BLOCKS = 64


def seen(office: Office, version: int = 1, name: str = MODEL) -> Seen:
    with office.database.reading() as session:
        return sight.of_embedding(session, store.model_version(session, name, version))


def under(office: Office, version: int, model: int = 1) -> Seen:
    with office.database.reading() as session:
        key = store.key_version(session, "alder.cells", version)
        issued = issuing.find(session, key, store.model_version(session, MODEL, model))
        assert issued is not None
        return sight.under_key(issued)


def rotated(office: Office, version: int) -> None:
    office.rotate()
    office.bring_into_use("alder.cells", version)


def test_nothing_is_seen_before_anybody_asks(office: Office) -> None:
    office.active_key()

    assert Seen() == seen(office) == under(office, 1)


def test_every_owners_pictures_count_and_a_refused_one_is_not_counted(
    office: Office,
) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    assert not office.answer(10, ALDER_ID)
    assert not office.answer(3, BIRCH_ID)
    assert office.answer(5, ALDER_ID, version=2) == "KeyRefused"

    assert seen(office) == Seen(13, 13 * BLOCKS)
    assert under(office, 1) == Seen(10, 10 * BLOCKS)


def test_a_rotation_begins_a_key_anew_and_takes_nothing_back(office: Office) -> None:
    office.active_key()
    office.answer(10)
    rotated(office, 2)
    office.answer(1, version=2)

    assert under(office, 2) == Seen(1, BLOCKS)
    assert seen(office) == Seen(11, 11 * BLOCKS)
    office.revoke()
    office.settle()
    assert seen(office) == Seen(11, 11 * BLOCKS)


@pytest.mark.parametrize(("embedding", "parent"), [("a", None), ("c", 1)])
def test_a_version_with_the_embedding_or_trained_on_from_it_begins_where_it_stands(
    office: Office, embedding: str, parent: int | None
) -> None:
    office.active_key()
    office.answer(10)
    register_model(office, seed=2, embedding=embedding, parent=parent)

    assert seen(office, 2) == Seen(10, 10 * BLOCKS)


def test_another_model_with_the_embedding_begins_where_it_stands(
    office: Office,
) -> None:
    office.active_key()
    office.answer(10)
    register_model(office, "tissues")

    assert seen(office, 1, "tissues") == Seen(10, 10 * BLOCKS)


def test_a_fresh_start_begins_at_nothing_under_a_new_key_version(
    office: Office,
) -> None:
    office.active_key()
    office.answer(10)
    register_model(office, seed=2, embedding="c")

    assert seen(office, 2) == Seen()


def test_a_fresh_start_that_is_issued_under_an_old_key_version_is_given_all_it_saw(
    office: Office,
) -> None:
    """`W2 (A x)` of every picture that was sent under A, whatever it was sent for."""
    office.active_key()
    office.answer(10)
    office.release(seed=2, embedding="c")
    office.settle()

    assert office.issued()["alder.cells", 1, 2] == "live"
    assert seen(office, 2) == seen(office, 1) == Seen(10, 10 * BLOCKS)


def test_what_would_be_seen_under_a_key_version_is_known_beforehand(
    office: Office,
) -> None:
    office.active_key()
    office.answer(10)
    register_model(office, seed=2, embedding="c")
    with office.database.reading() as session:
        fresh = store.model_version(session, MODEL, 2)
        old = store.key_version(session, "alder.cells", 1)

        assert sight.of_embedding(session, fresh, old) == Seen(10, 10 * BLOCKS)


def test_an_operator_is_told_the_total_and_an_owner_only_its_own(
    office: Office,
) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    office.answer(10, ALDER_ID)
    office.answer(3, BIRCH_ID)
    service = RegistryService(office.registry)
    request = registry_pb2.ListIssuedModelsRequest(key_id="alder.cells")
    found: list[registry_pb2.IssuedModel] = []
    for caller in (OPERATOR_ID, ALDER_ID):
        with acting_as(caller):
            found += service.ListIssuedModels(request, fake_context()).issued
    told, own = found

    assert (told.images, told.blocks) == (10, 10 * BLOCKS) == (own.images, own.blocks)
    assert (told.total_images, told.total_blocks) == (13, 13 * BLOCKS)
    assert not own.HasField("total_images")
    assert not own.HasField("total_blocks")


def test_a_key_version_counts_at_the_size_of_its_largest_pictures(
    office: Office,
) -> None:
    """Nobody counted which of its model versions answered each picture."""
    office.active_key()
    office.answer(10)
    office.release(seed=2, embedding="c", size=64)
    office.settle()

    assert under(office, 1, 1) == Seen(10, 10 * BLOCKS)
    assert under(office, 1, 2) == Seen(10, 10 * 4 * BLOCKS)
    assert seen(office, 1) == seen(office, 2) == Seen(10, 10 * 4 * BLOCKS)
