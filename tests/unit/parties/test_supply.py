"""What a replica lacks: fetched when it is asked for, and believed no sooner."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import KeyRefusedError, NotAllowedError, PeerUnavailable
from core.statements import ISSUE, IssueStatement, sign
from core.wire import dump_tensors
from parties.inference_server.errors import NotHereYetError
from parties.inference_server.store import IssuedName, ModelName
from parties.inference_server.supply import Supply, Wanted
from protos import key_holder_pb2
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    OTHER_OWNER_ID,
    OWNER_ID,
    PROVIDER_ID,
)
from tests.unit.parties.test_model_store import PEN, Shop

NAME = ModelName(MODEL, 1)
WANTED = Wanted(str(OWNER_ID), MODEL, 1, "k", 1)


@dataclass
class Elsewhere:
    """Another replica, and the key holder."""

    shop: Shop
    pen: Ed25519PrivateKey = PEN
    away: bool = False
    asked: list[ModelName | IssuedName] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    def backbone(self, name: ModelName) -> bytes:
        self._answer(name)
        return self.shop.release.backbone

    def issue(self, name: IssuedName) -> key_holder_pb2.FetchIssuedModelResponse:
        self._answer(name)
        statement = self.shop.statement().to_bytes()
        return key_holder_pb2.FetchIssuedModelResponse(
            statement=statement,
            signature=sign(self.pen, ISSUE, statement),
            embedding=dump_tensors({"weight": self.shop.transformed()}),
        )

    def _answer(self, name: ModelName | IssuedName) -> None:
        self.asked.append(name)
        self.meanwhile()
        if self.away:
            raise PeerUnavailable("nobody there")


@dataclass
class Empty:
    """A replica whose disk is empty; the registry lists one live issued model."""

    shop: Shop
    elsewhere: Elsewhere
    recorded: list[ModelName | IssueStatement] = field(default_factory=list)

    @property
    def supply(self) -> Supply:
        return Supply(
            self.shop.intake(),
            self.elsewhere,
            str(KEY_HOLDER_ID),
            lambda name, _digest: self.recorded.append(name),
            self.recorded.append,
        )


@pytest.fixture
def empty(tmp_path: Path) -> Empty:
    shop = Shop(tmp_path)
    shop.list_as_issued("live")
    shop.registry.key_states["k", 1] = "active"
    return Empty(shop, Elsewhere(shop))


def test_what_is_live_is_fetched_recorded_kept_and_served(empty: Empty) -> None:
    empty.supply.obtain(WANTED)
    served = empty.shop.serves()
    empty.shop.start()

    assert (served, empty.shop.serves()) == (True, True), "also after a restart"
    assert [NAME, empty.shop.statement()] == empty.recorded


def test_a_retiring_key_is_served_here_too_until_its_overlap_ends(
    empty: Empty,
) -> None:
    empty.shop.list_as_issued("retiring")
    empty.shop.registry.key_states["k", 1] = "retiring"
    empty.supply.obtain(WANTED)

    assert empty.shop.serves()


def test_without_a_version_the_newest_that_is_live_is_fetched(empty: Empty) -> None:
    empty.supply.obtain(replace(WANTED, model_version=None))

    assert empty.shop.serves()


@pytest.mark.parametrize(
    "wanted",
    [
        replace(WANTED, model="other"),
        replace(WANTED, model_version=2),
        replace(WANTED, key_version=2),
    ],
)
def test_what_is_not_live_is_not_asked_for(empty: Empty, wanted: Wanted) -> None:
    empty.supply.obtain(wanted)

    assert [] == empty.elsewhere.asked


@pytest.mark.parametrize("state", ["pending", "gone"])
def test_what_may_not_be_served_is_not_asked_for(empty: Empty, state: str) -> None:
    empty.shop.list_as_issued(state)
    empty.supply.obtain(WANTED)

    assert [] == empty.elsewhere.asked


def test_nobody_has_another_owners_model_fetched(empty: Empty) -> None:
    with pytest.raises(NotAllowedError):
        empty.supply.obtain(replace(WANTED, owner=str(OTHER_OWNER_ID)))

    assert [] == empty.elsewhere.asked


def test_a_key_that_was_revoked_a_moment_ago_is_refused(empty: Empty) -> None:
    empty.shop.registry.key_states["k", 1] = "destroy_scheduled"
    with pytest.raises(KeyRefusedError):
        empty.supply.obtain(WANTED)

    assert [] == empty.elsewhere.asked


def test_what_was_revoked_while_it_was_fetched_is_not_kept(empty: Empty) -> None:
    """Else it would lie here after it was deleted everywhere."""

    def revoke() -> None:
        empty.shop.registry.key_states["k", 1] = "destroy_scheduled"

    empty.elsewhere.meanwhile = revoke
    with pytest.raises(KeyRefusedError):
        empty.supply.obtain(WANTED)

    assert not empty.shop.serves()
    assert not list((empty.shop.folder / "issued").iterdir())


def test_what_cannot_be_had_now_may_be_asked_of_another_replica(empty: Empty) -> None:
    empty.elsewhere.away = True
    with pytest.raises(NotHereYetError):
        empty.supply.obtain(WANTED)
    empty.elsewhere.away = False
    empty.supply.obtain(WANTED)

    assert empty.shop.serves()


def test_what_the_key_holder_did_not_sign_is_not_served(empty: Empty) -> None:
    empty.elsewhere.pen = Ed25519PrivateKey.generate()
    with pytest.raises(NotHereYetError):
        empty.supply.obtain(WANTED)

    assert not empty.shop.serves()


def test_a_backbone_that_its_provider_did_not_sign_is_not_served(empty: Empty) -> None:
    """A replica is believed no more than an upload."""
    (registered,) = empty.shop.registry.versions
    registered.signature = bytes(64)
    with pytest.raises(NotHereYetError):
        empty.supply.obtain(WANTED)

    assert [] == empty.recorded


def test_the_release_of_a_provider_that_has_left_is_still_served(empty: Empty) -> None:
    empty.shop.registry.parties[str(PROVIDER_ID)].state = "revoked"
    empty.supply.obtain(WANTED)

    assert empty.shop.serves()


def test_many_who_lack_the_same_have_it_fetched_once(empty: Empty) -> None:
    supply = empty.supply
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(supply.obtain, [WANTED] * 24))

    assert [NAME, IssuedName("k", 1, MODEL, 1)] == empty.elsewhere.asked


def test_a_start_fetches_backbones_and_goes_on_without(empty: Empty) -> None:
    empty.supply.stock_up([NAME, ModelName("never registered", 7)])

    assert empty.shop.catalogue.versions(MODEL) == [1]
