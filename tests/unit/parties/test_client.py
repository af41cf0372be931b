"""An owner's client against parties that really seal, sign and compute."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import (
    BudgetSpent,
    KeyMismatchError,
    NotFound,
    ShapeError,
    SignatureError,
    TooLargeError,
)
from core.orthogonal import GENERATOR
from core.preprocessing import normalise
from core.rpc.errors import RemoteRefusedError
from core.sealing import ExpiredError, SealingKey
from parties.data_owner.asking import Tally, ask_about
from parties.data_owner.client import Channels, Client, ensure_sealing_key
from parties.data_owner.errors import (
    IncompleteError,
    NoKeyError,
    UnexpectedAnswerError,
    UnknownModelError,
)
from tests.unit.parties.owner_world import (
    CLASSES,
    PREPROCESSING,
    World,
    client_of,
    plain_answer,
    served,
)

IMAGES = np.random.default_rng(6).integers(0, 256, (7, 8, 8, 3), np.uint8)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def channels(world: World) -> Iterator[Channels]:
    with served(world) as channels:
        yield channels


@pytest.fixture
def client(channels: Channels, tmp_path: Path) -> Client:
    client = client_of(channels, tmp_path)
    client.register()
    return client


@pytest.fixture
def ready(client: Client, world: World) -> Client:
    world.create()
    client.sync_keys()
    world.activate(1)
    return client


def test_a_new_key_is_fetched_kept_and_proved(client: Client, world: World) -> None:
    world.create()

    client.sync_keys()

    assert ("st-anna.cells", 1) in client.keyring
    assert world.proved == [1]


def test_a_key_is_fetched_once_and_proved_until_it_is_confirmed(
    client: Client, world: World
) -> None:
    """A client that dies between the two steps goes on where it stopped."""
    world.create()
    for _ in range(3):
        client.sync_keys()
    world.activate(1)
    client.sync_keys()

    assert world.fetched == [1]
    assert world.proved == [1, 1, 1]


def test_another_owners_key_and_a_destroyed_one_are_left_alone(
    client: Client, world: World
) -> None:
    world.create(1, owner="spiffe://test.keymixer/other/data-owner")
    world.create(2, state="destroyed")

    assert [2] == [version.version for version in client.sync_keys()]
    assert not world.fetched


def test_an_envelope_that_another_signed_is_refused(
    client: Client, world: World
) -> None:
    world.create()
    world.signs_with = Ed25519PrivateKey.generate()

    with pytest.raises(SignatureError):
        client.sync_keys()
    assert ("st-anna.cells", 1) not in client.keyring


@pytest.mark.parametrize("fault", ["signature", "expired", "generator", "owner"])
def test_a_bad_successor_does_not_stop_the_key_that_serves(
    ready: Client, world: World, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Else whoever can spoil a delivery could stop an owner's requests."""
    world.create(2, generator="keymixer-haar-v9" if fault == "generator" else GENERATOR)
    if fault == "signature":
        world.signs_with = Ed25519PrivateKey.generate()
    elif fault == "expired":
        world.lifetime_ms = -1
    elif fault == "owner":
        world.sealed_for = "spiffe://test.keymixer/other/data-owner"

    assert len(ready.predict(IMAGES).logits) == len(IMAGES)
    assert ("st-anna.cells", 2) not in ready.keyring
    told = [vars(each) for each in caplog.records if each.levelname == "WARNING"]
    assert {each["key_version"] for each in told} == {2}
    with pytest.raises((SignatureError, ExpiredError)) as caught:
        ready.sync_keys(every=True)
    assert {each["kind"] for each in told} == {caught.value.kind}


def test_an_envelope_for_another_owner_is_refused(client: Client, world: World) -> None:
    world.create()
    world.sealed_for = "spiffe://test.keymixer/other/data-owner"

    with pytest.raises(SignatureError):
        client.sync_keys()


def test_an_expired_envelope_is_refused(client: Client, world: World) -> None:
    world.create()
    world.lifetime_ms = -1

    with pytest.raises(ExpiredError):
        client.sync_keys()


def test_an_unknown_generator_is_refused(client: Client, world: World) -> None:
    world.create(generator="keymixer-haar-v9")

    with pytest.raises(SignatureError, match="unknown generator"):
        client.sync_keys()


def test_encrypted_answers_are_the_plain_models(ready: Client) -> None:
    answers = ready.predict(IMAGES)

    assert np.allclose(plain_answer(IMAGES), answers.logits, atol=1e-5)
    assert answers.classes == CLASSES
    assert np.array_equal(plain_answer(IMAGES).argmax(1), answers.top)
    shares = np.exp(plain_answer(IMAGES))
    shares /= shares.sum(1, keepdims=True)
    assert np.allclose(shares, answers.probabilities, atol=1e-5)


def test_no_plain_number_leaves_the_owner(ready: Client, world: World) -> None:
    ready.predict(IMAGES)

    (sent,) = (request.SerializeToString() for request in world.asked)
    plain = normalise(IMAGES, PREPROCESSING)
    for form in (plain.astype("<f4"), plain.astype("<f2"), IMAGES):
        raw = form.tobytes()
        assert not any(raw[at : at + 16] in sent for at in range(0, len(raw) - 16, 16))


def test_requests_are_cut_to_the_batch_and_answers_kept_in_order(
    ready: Client,
) -> None:
    told: list[tuple[int, int]] = []

    answers = ready.predict(IMAGES, 3, lambda done, total: told.append((done, total)))

    assert [3, 3, 1] == [receipt.images for receipt in answers.receipts]
    assert [2, 3, 4] == [receipt.audit_index for receipt in answers.receipts]
    assert told == [(3, 7), (6, 7), (7, 7)]
    assert np.allclose(plain_answer(IMAGES), answers.logits, atol=1e-5)


def test_a_request_stays_below_the_message_limit(
    channels: Channels, world: World, tmp_path: Path
) -> None:
    """One image is 768 bytes; 64 KiB of a message are left for what surrounds it."""
    client = client_of(channels, tmp_path, max_message_bytes=(64 << 10) + 2 * 768)
    client.register()
    world.create()
    client.sync_keys()
    world.activate(1)

    receipts = client.predict(IMAGES).receipts

    assert [2, 2, 2, 1] == [receipt.images for receipt in receipts]
    assert all(request.ByteSize() < (64 << 10) + 2 * 768 for request in world.asked)


def test_an_image_larger_than_a_message_is_refused(
    channels: Channels, world: World, tmp_path: Path
) -> None:
    client = client_of(channels, tmp_path, max_message_bytes=64 << 10)
    client.register()
    world.create()
    client.sync_keys()
    world.activate(1)

    with pytest.raises(TooLargeError):
        client.predict(IMAGES)


def test_a_key_retired_under_the_request_costs_no_answer(
    ready: Client, world: World
) -> None:
    def rotate() -> None:
        world.create(2)
        world.activate(2)
        world.retire(1)

    world.on_request.append(rotate)

    answers = ready.predict(IMAGES)

    assert [2] == [receipt.key_version for receipt in answers.receipts]
    assert np.allclose(plain_answer(IMAGES), answers.logits, atol=1e-5)


def test_a_revoked_owner_is_told_so(ready: Client, world: World) -> None:
    world.on_request.append(lambda: world.retire(1))

    with pytest.raises(NoKeyError, match="v1: destroyed"):
        ready.predict(IMAGES)


def test_without_a_key_there_is_nothing_to_ask_with(client: Client) -> None:
    with pytest.raises(NoKeyError, match="none was ever made"):
        client.predict(IMAGES)


def test_a_key_without_issued_model_is_not_used(client: Client, world: World) -> None:
    world.create()
    client.sync_keys()
    world.activate(1)
    world.live.clear()

    with pytest.raises(NoKeyError, match="no model is issued"):
        client.use()


def of_two_models(world: World, channels: Channels, folder: Path, model: Any) -> Client:
    """A client for `model`, whose owner has a primary key for each of two models."""
    client = client_of(channels, folder, model)
    client.register()
    world.create(1)
    world.create(2, model="tissue")
    client.sync_keys()
    for version in (1, 2):
        world.activate(version)
    world.versions[1].primary = True
    return client


def test_the_model_it_names_selects_among_two_primary_keys(
    channels: Channels, world: World, tmp_path: Path
) -> None:
    client = of_two_models(world, channels, tmp_path, "cells")

    assert (client.use().model, client.use().key.version) == ("cells", 1)


def test_keys_for_two_models_and_none_named_is_no_key(
    channels: Channels, world: World, tmp_path: Path
) -> None:
    client = of_two_models(world, channels, tmp_path, None)

    with pytest.raises(NoKeyError, match="cells, tissue"):
        client.use()


def test_a_model_that_no_key_is_for_is_unknown(
    channels: Channels, world: World, tmp_path: Path
) -> None:
    client = of_two_models(world, channels, tmp_path, "birds")

    with pytest.raises(UnknownModelError, match="birds; keys for: cells, tissue"):
        client.use()


def test_a_pending_issue_is_not_used(ready: Client, world: World) -> None:
    world.issued_state = "pending"

    with pytest.raises(NoKeyError, match="no model is issued"):
        ready.use()


def test_what_is_not_allowed_is_not_asked_again(ready: Client, world: World) -> None:
    def refuse() -> None:
        world.key_id = "another"

    world.on_request.append(refuse)
    with pytest.raises(RemoteRefusedError) as caught:
        ready.predict(IMAGES)

    assert caught.value.kind == "NotAllowed"
    assert len(world.asked) == 1


def test_a_key_of_another_block_size_is_refused(client: Client, world: World) -> None:
    world.create(patch_size=4)
    client.sync_keys()
    world.activate(1)

    with pytest.raises(KeyMismatchError):
        client.use()


def test_a_refusal_is_the_servers_word(ready: Client, world: World) -> None:
    use = ready.use()
    world.live.clear()

    with pytest.raises(RemoteRefusedError) as caught:
        ready.ask(use.encrypt(IMAGES), use)
    assert caught.value.kind == "KeyRefused"
    assert len(world.asked) == 1


def test_a_spent_budget_is_an_error_of_its_own_and_not_asked_about_again(
    ready: Client, world: World
) -> None:
    world.budget = 1
    ready.predict(IMAGES)

    with pytest.raises(BudgetSpent, match="inference server answers"):
        ready.predict(IMAGES)
    assert len(world.asked) == 2


def test_a_manifest_that_was_changed_is_refused(ready: Client, world: World) -> None:
    world.manifest_changed = True

    with pytest.raises(SignatureError):
        ready.use()


def test_an_answer_to_another_request_is_refused(ready: Client, world: World) -> None:
    world.answer_id = "another"

    with pytest.raises(UnexpectedAnswerError, match="another request"):
        ready.predict(IMAGES)


def test_an_answer_of_another_shape_is_refused(ready: Client, world: World) -> None:
    world.answer_classes = 2

    with pytest.raises(UnexpectedAnswerError, match="expected logits"):
        ready.predict(IMAGES)


def test_images_of_the_wrong_size_never_leave(ready: Client, world: World) -> None:
    with pytest.raises(ShapeError):
        ready.predict(IMAGES[:, :4])
    with pytest.raises(ShapeError):
        ready.predict(IMAGES[:0])
    assert not world.asked


def test_any_model_needs_no_key(client: Client) -> None:
    version, manifest = client.any_model()

    assert (version.name, version.version) == ("cells", 1)
    assert manifest.classes == CLASSES


def test_keys_are_looked_up_again_only_after_a_while(
    channels: Channels, world: World, tmp_path: Path
) -> None:
    client = client_of(channels, tmp_path, refresh_s=60.0)
    client.register()
    world.create()
    client.sync_keys()
    world.activate(1)
    first = client.use()
    world.create(2)
    world.activate(2)

    assert client.use() is first
    assert client.use(fresh=True).key.version == 2


def test_an_unknown_key_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound):
        client.keyring.key("st-anna.cells", 9)


def test_every_image_is_asked_about_once_and_the_versions_that_answered_are_told(
    ready: Client, world: World
) -> None:
    """The key is rotated while the second of three requests is on its way."""

    def rotate() -> None:
        world.create(2)
        world.activate(2)

    world.on_request += [lambda: None, rotate]

    tally = ask_about(IMAGES, 3, ready.predict, lambda _: None)

    facts = tally.facts()
    assert (facts["images"], facts["requests"], facts["failed"]) == (7, 3, 0)
    assert [(1, 2), (2, 1)] == [
        (v["key_version"], v["requests"]) for v in facts["versions"]
    ]
    assert tally.logits is not None
    assert np.allclose(plain_answer(IMAGES), tally.logits, atol=1e-5)


def test_failures_are_counted_by_kind_and_images_without_answer_are_said(
    ready: Client, world: World
) -> None:
    world.on_request += [lambda: None, lambda: world.retire(1)]
    told: list[Tally] = []

    with pytest.raises(IncompleteError, match=r"4 images got no answer.*NoKey"):
        ask_about(IMAGES, 3, ready.predict, told.append)
    assert told[-1].failures.total() == 2


def test_of_two_processes_that_make_a_sealing_key_the_first_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = SealingKey.generate(), SealingKey.generate()

    def outrun() -> SealingKey:
        first.save(tmp_path / "sealing.key")
        return second

    monkeypatch.setattr(SealingKey, "generate", outrun)

    assert ensure_sealing_key(tmp_path).secret == first.secret
    assert ensure_sealing_key(tmp_path).secret == first.secret


def asked_versions(world: World) -> list[str]:
    return [request.model_version for request in world.asked]


def test_a_candidate_is_asked_its_share_of_the_requests(
    world: World, client: Client
) -> None:
    """Evenly: of ten at a tenth the tenth; and its receipts say who answered."""
    world.create()
    world.activate(1)
    world.try_candidate()
    answers = client.predict(np.repeat(IMAGES, 3, 0)[:20], batch=1)

    assert [*"1" * 9, "2"] * 2 == asked_versions(world)
    assert [each.model_version for each in answers.receipts] == [
        int(version) for version in asked_versions(world)
    ]


def test_where_both_names_are_one_version_there_is_nothing_to_try(
    world: World, client: Client
) -> None:
    """Promoted, or rolled back: an alias was moved, and nothing else."""
    world.create()
    world.activate(1)
    world.try_candidate()
    world.aliases = ([], ["champion", "candidate"])
    client.predict(IMAGES, batch=1)

    assert {"2"} == set(asked_versions(world))


def test_a_request_that_was_refused_is_made_again_with_the_champion(
    world: World, client: Client
) -> None:
    """Even if the next one would be the candidate's."""
    world.create()
    world.activate(1)
    world.try_candidate()
    for _ in range(9):
        client.use()
    assert client.use(fresh=True).model_version == 1
    assert client.use().model_version == 2
