"""Rules about leakage cards act where something is issued, and the log tells of it."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from core.errors import KeymixerError
from core.rpc.policy import acting_as
from orchestrator.audit.history import History
from orchestrator.audit.records import parse_entry
from orchestrator.errors import FreshReleaseNeeded, LeakageRefused
from orchestrator.federation import LeakageRule, Policies
from orchestrator.registry.cards import IssuedCard
from orchestrator.registry.sight import Seen
from orchestrator.workflows import jobs, undoing
from orchestrator.workflows.service import WorkflowService
from protos import workflows_pb2
from tests.fakes import Aborted, fake_context
from tests.unit.core.test_card import CARD
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    OPERATOR_ID,
    Office,
    register_model,
)

ALDER = "alder.cells"
MISSING = {"when": "missing_card", "then": "refuse"}
TEN = {"when": "images", "above": 10, "then": "fresh_release"}


def rule(office: Office, *rules: dict[str, Any]) -> None:
    found = Policies.model_validate({"leakage": rules}).leakage
    office.policies = office.policies.model_copy(update={"leakage": found})


def told(office: Office, kind: str) -> list[tuple[Any, Any]]:
    return [
        (entry.subject["model_version"], entry.subject["because"])
        for entry in office.entries(kind)
    ]


# The rules themselves.


def card(**changed: Any) -> IssuedCard:
    whole = IssuedCard(
        CARD.scheme, 48, CARD, public_embedding=False, total=Seen(10, 640)
    )
    return replace(whole, **changed)


@pytest.mark.parametrize(
    ("wanted", "changed", "because"),
    [
        ({"when": "missing_card"}, {"measured": None}, "has no leakage card"),
        ({"when": "public_embedding"}, {"public_embedding": True}, "is public"),
        ({"when": "images", "above": 9}, {}, "10, above 9"),
        ({"when": "blocks", "above": 639}, {}, "640, above 639"),
        # 640 blocks for 14 directions.
        ({"when": "ratio", "above": 45.7}, {}, "45.7143, above 45.7"),
        # One that nobody measured may have a single direction.
        ({"when": "ratio", "above": 639}, {"measured": None}, "640, above 639"),
        ({"when": "ssim", "above": 0.99}, {}, "1, above 0.99"),
        ({"when": "ssim", "above": 0.99}, {"measured": None}, "1, above 0.99"),
    ],
)
def test_a_rule_is_broken_by_more_than_it_allows_and_says_by_what(
    wanted: dict[str, Any], changed: dict[str, Any], because: str
) -> None:
    asked = LeakageRule.model_validate({**wanted, "then": "warn"})
    ((_, why),) = card(**changed).broken([asked])

    assert because in why


@pytest.mark.parametrize(
    "wanted",
    [
        {"when": "missing_card"},
        {"when": "public_embedding"},
        {"when": "images", "above": 10},
        {"when": "blocks", "above": 640},
        {"when": "ratio", "above": 45.72},
        {"when": "ssim", "above": 1},
    ],
)
def test_a_rule_is_kept_by_what_it_allows(wanted: dict[str, Any]) -> None:
    assert not card().broken([LeakageRule.model_validate({**wanted, "then": "warn"})])


@pytest.mark.parametrize(
    "wrong",
    [
        {"when": "images", "then": "warn"},
        {"when": "images", "above": -1, "then": "warn"},
        {"when": "missing_card", "above": 1, "then": "warn"},
        {"when": "missing_card", "then": "fresh_release"},
        {"when": "ssim", "above": 0.5, "then": "fresh_release"},
        {"when": "images", "above": 1, "then": "forget"},
        {"when": "days", "above": 1, "then": "warn"},
    ],
)
def test_a_rule_that_says_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policies.model_validate({"leakage": [wrong]})


# Refuse.


def test_without_a_card_no_key_is_drawn_and_the_reason_is_given(
    office: Office,
) -> None:
    rule(office, MISSING)
    office.grant()
    request = workflows_pb2.CreateKeyRequest(owner=str(ALDER_ID), model=MODEL)
    service = WorkflowService(office.registry, office.policies, office.key_holder)
    with acting_as(OPERATOR_ID), pytest.raises(Aborted, match="LeakageRefused"):
        service.CreateKey(request, fake_context())

    assert office.states() == {}
    assert told(office, "model.held_back") == [(1, "the release has no leakage card")]


def test_with_a_card_it_is_issued_and_no_record_says_anything(office: Office) -> None:
    rule(office, MISSING)
    register_model(office, seed=2, card=CARD)
    office.active_key()

    assert office.issued() == {(ALDER, 1, 2): "live"}
    assert not office.entries("model.held_back")
    assert not office.entries("issued.warned")


def test_it_becomes_neither_champion_nor_is_any_key_rotated_to_it(
    office: Office,
) -> None:
    register_model(office, seed=2, card=CARD)
    office.move_champion(2)
    office.active_key()
    rule(office, MISSING)
    with pytest.raises(LeakageRefused, match="no leakage card"):
        office.move_champion(1)
    rule(office, {"when": "ssim", "above": 0.99, "then": "refuse"})
    with pytest.raises(LeakageRefused, match="SSIM"):
        office.rotate()


@pytest.mark.parametrize("step", ["prepare", "send"])
def test_what_is_on_its_way_when_a_rule_comes_waits_for_an_operator(
    office: Office, step: str
) -> None:
    office.grant()
    office.create()
    office.settle()
    office.confirm(ALDER, 1)
    engine = office.engine()
    if step == "send":
        (lease,) = engine.claim(1)
        assert engine.step(lease) is not None
        engine.give_back()
    asked = len(office.key_holder.calls)
    rule(office, MISSING)
    office.settle()
    (job,) = office.open_rows()

    assert (job.state, job.step) == ("needs_operator", step)
    assert job.why.startswith("LeakageRefused: cells version 1: the release has no")
    assert len(office.key_holder.calls) == asked
    rule(office)
    with office.change() as change:
        jobs.retry(change, jobs.named(change.session, job.id))
    office.settle()
    assert office.states() == {(ALDER, 1): "active"}


def test_a_release_is_left_to_an_operator_by_one_job(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    rule(office, MISSING)
    register_model(office, seed=2)
    office.settle()
    (job,) = office.open_rows()

    assert (job.kind, job.state) == ("release", "needs_operator")
    assert told(office, "model.held_back") == [(2, "the release has no leakage card")]


# Warn.


def test_a_warning_issues_and_says_in_the_log_what_speaks_against_it(
    office: Office,
) -> None:
    rule(office, {**MISSING, "then": "warn"})
    office.active_key()

    assert office.issued() == {(ALDER, 1, 1): "live"}
    assert told(office, "issued.warned") == [(1, "the release has no leakage card")]
    (entry,) = office.entries("issued.warned")
    assert entry.subject["key_id"] == ALDER
    assert office.kinds().index("issued.warned") < office.kinds().index("issued.live")


# A fresh release.


def test_past_the_threshold_nothing_more_is_issued_of_an_embedding(
    office: Office,
) -> None:
    """Over all owners; a rotation, or another owner's first key, is no way around."""
    rule(office, TEN)
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    office.answer(6, ALDER_ID)
    office.answer(4, BIRCH_ID)
    office.rotate(BIRCH_ID)
    office.bring_into_use("birch.cells", 2)
    office.answer(1, BIRCH_ID, version=2)

    with pytest.raises(FreshReleaseNeeded, match="11, above 10"):
        office.rotate(ALDER_ID)
    office.revoke(BIRCH_ID)
    with pytest.raises(FreshReleaseNeeded):
        office.create(BIRCH_ID)
    with pytest.raises(FreshReleaseNeeded):
        office.release(seed=2, parent=1, embedding="c")
    # Those in use are answered, as before.
    assert not office.answer(1, ALDER_ID)


def test_a_policy_rotates_no_key_to_what_is_no_longer_issued(office: Office) -> None:
    office.active_key()
    office.answer(11)
    rotation = office.policies.rotation.model_copy(update={"max_images": 5})
    office.policies = office.policies.model_copy(update={"rotation": rotation})
    rule(office, TEN)
    office.settle()
    before = dict(office.states())
    rule(office)
    office.settle()

    assert before == {(ALDER, 1): "active"}
    assert office.states()[ALDER, 2] == "pre_active"


def test_a_fresh_release_goes_to_new_key_versions_alone(office: Office) -> None:
    """Under the old one the server would see in its basis all that was sent before."""
    rule(office, TEN)
    office.active_key()
    office.answer(11)
    office.release(seed=2, embedding="c")
    office.settle()
    before = office.issued()
    office.rotate()
    office.bring_into_use(ALDER, 2)

    assert before == {(ALDER, 1, 1): "live"}
    assert [job.kind for job in office.open_rows()] == ["rotate"]
    (said,) = told(office, "model.held_back")
    assert said == (
        2,
        "pictures seen under all keys of its embedding: 11, above 10",
    )
    assert office.entries("model.held_back")[0].subject["key_id"] == ALDER
    assert office.issued()[ALDER, 2, 2] == "live"
    assert (ALDER, 2, 1) not in office.issued()
    assert not office.answer(10, version=2, model=2)


def on_its_way(office: Office, step: str) -> None:
    """A first key is confirmed, and the threshold passed before this step."""
    rule(office, TEN)
    office.active_key(BIRCH_ID)
    office.grant()
    office.create()
    office.settle()
    office.confirm(ALDER, 1)
    engine = office.engine()
    if step == "send":
        (lease,) = engine.claim(1)
        assert engine.step(lease) is not None
        engine.give_back()
    office.answer(11, BIRCH_ID)
    office.settle()


def test_a_key_on_its_way_waits_for_the_fresh_release_and_goes_on_by_itself(
    office: Office,
) -> None:
    on_its_way(office, "prepare")
    job = office.open_job("create")

    assert (job.state, job.step) == ("waiting", "prepare")
    assert job.why.startswith("FreshReleaseNeeded: ")
    office.release(seed=2, embedding="c")
    office.settle()
    assert office.states()[ALDER, 1] == "active"
    assert office.issued()[ALDER, 1, 2] == "live"
    assert (ALDER, 1, 1) not in office.issued()


def test_what_was_prepared_of_the_old_embedding_is_given_up_for_another_key_version(
    office: Office,
) -> None:
    """It may have reached the server: the fresh one under it would join the basis."""
    on_its_way(office, "send")
    job = office.open_job("create")
    assert (job.state, job.step) == ("needs_operator", "send")
    with office.change() as change:
        undoing.give_up(change, office.policies, job.id, "prepared too late")
    office.release(seed=2, embedding="c")
    office.create()
    office.bring_into_use(ALDER, 2)

    assert office.issued()[ALDER, 2, 2] == "live"
    assert (ALDER, 1, 2) not in office.issued()


# Whatever the rules.


def test_the_log_that_tells_of_it_can_be_followed(office: Office) -> None:
    rule(office, {**MISSING, "then": "warn"}, TEN)
    office.active_key()
    office.answer(11)
    with pytest.raises(KeymixerError):
        office.rotate()
    office.release(seed=2, embedding="c")
    office.settle()
    history = History()
    for entry in office.registry.log.entries(0, 10_000):
        history.add(parse_entry(entry.body))

    assert {"issued.warned", "model.held_back"} <= set(office.kinds())


def test_without_rules_nothing_is_counted_and_nothing_is_held_back(
    office: Office,
) -> None:
    office.active_key()
    office.answer(1_000_000)
    office.rotate()

    assert not office.policies.leakage
    assert not office.entries("model.held_back")
