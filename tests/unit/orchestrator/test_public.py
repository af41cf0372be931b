"""A public embedding is not issued unless the policies say so, and the log tells."""

from typing import Any

import grpc
import pytest

from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from core.statements import MANIFEST, sign
from orchestrator.audit.history import History
from orchestrator.audit.records import parse_entry
from orchestrator.errors import PublicEmbeddingRefused
from orchestrator.registry import store
from orchestrator.registry.service import RegistryService
from orchestrator.workflows import jobs, release
from orchestrator.workflows.service import WorkflowService
from protos import registry_pb2, workflows_pb2
from tests.fakes import Aborted, fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    OPERATOR_ID,
    PROVIDER_ID,
    RIVAL_ID,
    RIVAL_KEY,
    Office,
    manifest_bytes,
    register_model,
)

ALDER = "alder.cells"


def allow(office: Office) -> None:
    changed = {"allow_public_embeddings": True}
    office.policies = office.policies.model_copy(update=changed)


def ask(office: Office, caller: SpiffeId, method: str, request: Any) -> Any:
    """As over the wire, of the service that has the method."""
    services = (
        RegistryService(office.registry, office.policies),
        WorkflowService(office.registry, office.policies, office.key_holder),
    )
    (service,) = [each for each in services if hasattr(each, method)]
    with acting_as(caller):
        return getattr(service, method)(request, fake_context())


def create(office: Office) -> Any:
    office.grant()
    request = workflows_pb2.CreateKeyRequest(owner=str(ALDER_ID), model=MODEL)
    return ask(office, OPERATOR_ID, "CreateKey", request)


def is_public(office: Office, *versions: int) -> list[bool]:
    with office.database.reading() as session:
        rows = [store.model_version(session, MODEL, each) for each in versions]
        return [row.public_embedding for row in rows]


def told(office: Office, kind: str) -> list[tuple[Any, ...]]:
    """What each record of a kind is about, and who it says asked."""
    names = ("model", "model_version", "embedding", "caller")
    return [
        tuple(entry.subject.get(name) for name in names)
        for entry in office.entries(kind)
    ]


def test_no_key_is_drawn_for_it_and_the_reason_is_given_in_plain_words(
    office: Office,
) -> None:
    register_model(office, public=True, embedding="c")
    with pytest.raises(Aborted) as refused:
        create(office)
    status, details = refused.value.args

    assert status is grpc.StatusCode.PERMISSION_DENIED
    assert details.startswith("PublicEmbeddingRefused: from a public embedding W")
    for words in ("least-squares", "hide no picture", "allow_public_embeddings"):
        assert words in details
    assert office.states() == {}
    assert told(office, "model.not_issued") == [(MODEL, 2, "public", str(OPERATOR_ID))]


def test_with_the_policy_it_is_issued_and_every_record_says_what_it_is(
    office: Office,
) -> None:
    register_model(office, public=True, embedding="c")
    allow(office)
    made = create(office)
    office.bring_into_use(made.key_id, made.version)

    assert office.issued() == {(ALDER, 1, 2): "live"}
    for kind in ("issued.prepared", "issued.live", "model.registered"):
        assert office.entries(kind)[-1].subject["embedding"] == "public"
    assert office.entries("model.not_issued") == []


def test_of_a_secret_one_no_record_says_anything_new(office: Office) -> None:
    office.active_key()

    assert not any("embedding" in entry.subject for entry in office.entries())


def test_it_does_not_become_the_champion(office: Office) -> None:
    office.move_champion(1)
    register_model(office, public=True, embedding="c")
    request = registry_pb2.SetAliasRequest(name=MODEL, alias="champion", version=2)
    with pytest.raises(Aborted, match="PublicEmbeddingRefused"):
        ask(office, PROVIDER_ID, "SetAlias", request)

    assert told(office, "model.not_issued") == [(MODEL, 2, "public", str(PROVIDER_ID))]
    with office.change() as change:
        model = store.model_named(change.session, MODEL)
        champion = store.champion(change.session, model.id)
        assert champion is not None
        assert champion.version == 1
    allow(office)
    ask(office, PROVIDER_ID, "SetAlias", request)
    assert told(office, "alias.moved")[-1] == (MODEL, 2, "public", None)


def test_another_alias_may_name_it(office: Office) -> None:
    register_model(office, public=True, embedding="c")
    request = registry_pb2.SetAliasRequest(name=MODEL, alias="imported", version=2)

    assert ask(office, PROVIDER_ID, "SetAlias", request)


def test_no_key_is_rotated_to_it(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    register_model(office, public=True, embedding="c")
    with pytest.raises(PublicEmbeddingRefused, match="cells version 2 is public"):
        office.rotate(ALDER_ID)
    left_out = [each.left_out for each in office.rotate(None)]

    assert left_out == ["the embedding of cells version 2 is public"] * 2
    assert set(office.states().values()) == {"active"}


def test_policies_rotate_no_key_to_it_and_ask_no_more(office: Office) -> None:
    office.active_key()
    rotation = office.policies.rotation.model_copy(update={"max_age": 1.0})
    office.policies = office.policies.model_copy(update={"rotation": rotation})
    register_model(office, public=True, embedding="c")
    office.clock.pass_seconds(10)
    office.settle()
    refused = dict(office.states())
    allow(office)
    office.settle()

    assert refused == {(ALDER, 1): "active"}
    assert office.states()[ALDER, 2] == "pre_active"


def test_one_job_of_a_release_waits_for_an_operator_and_no_job_for_each_key(
    office: Office,
) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    register_model(office, public=True, embedding="c")
    office.settle()
    (job,) = office.open_rows()

    assert (job.kind, job.state) == ("release", "needs_operator")
    assert "PublicEmbeddingRefused" in job.why
    assert "least-squares" in job.why
    (entry,) = office.entries("model.not_issued")
    assert entry.subject["job"] == job.id
    assert set(office.issued()) == {(ALDER, 1, 1), ("birch.cells", 1, 1)}


@pytest.mark.parametrize("step", ["prepare", "send"])
def test_what_turns_public_on_the_way_is_not_issued_until_it_is_allowed(
    office: Office, step: str
) -> None:
    """The same embedding is registered once more, as public, before the job goes on."""
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
    register_model(office, public=True, seed=5)
    office.settle()
    (job,) = [each for each in office.open_rows() if each.kind == "create"]

    assert (job.state, job.step) == ("needs_operator", step)
    assert len(office.key_holder.calls) == asked
    assert office.states() == {(ALDER, 1): "pre_active"}
    assert office.entries("job.needs_operator")[-1].subject["error"] == (
        "PublicEmbeddingRefused"
    )
    allow(office)
    with office.change() as change:
        jobs.retry(change, jobs.named(change.session, job.id))
    office.settle()
    assert office.states() == {(ALDER, 1): "active"}


def test_what_was_trained_on_from_it_or_has_its_embedding_is_public_too(
    office: Office,
) -> None:
    """2 is as 1, held to be secret before; 3 is a child of 1, 4 has 3's; 5 is new."""
    register_model(office, seed=2, public=True)
    register_model(office, seed=3, parent=1, embedding="c")
    register_model(office, seed=4, embedding="c")
    register_model(office, seed=5, embedding="d")

    assert is_public(office, 1, 2, 3, 4, 5) == [True, True, True, True, False]
    because = [entry.subject["because"] for entry in office.entries("model.public")]
    assert because == [f"as that of cells version {n}" for n in (2, 1, 3)]


def test_what_a_child_was_held_to_be_follows_its_parent(office: Office) -> None:
    register_model(office, seed=2, parent=1, embedding="c")
    register_model(office, seed=3, public=True)

    assert is_public(office, 1, 2, 3) == [True, True, True]


def test_nobody_marks_another_providers_model(office: Office) -> None:
    manifest = manifest_bytes("rivals", public=True)
    with office.change(RIVAL_ID) as change:
        signature = sign(RIVAL_KEY, MANIFEST, manifest)
        made = store.register_model_version(change, manifest, signature)
        release.registered(change, made)

    assert is_public(office, 1) == [False]


def test_a_recovery_does_not_end_with_it(office: Office) -> None:
    office.move_champion(1)
    office.active_key()
    office.compromise()
    allow(office)
    office.release(seed=7, public=True, embedding="c")
    office.settle()

    assert "public embedding" in office.open_job("recover").why


def test_the_registry_says_which_versions_are_public(office: Office) -> None:
    register_model(office, public=True, embedding="c")
    request = registry_pb2.ListModelVersionsRequest(name=MODEL)
    found = ask(office, ALDER_ID, "ListModelVersions", request).versions

    assert [each.public_embedding for each in found] == [False, True]


def test_the_log_that_tells_of_it_can_be_followed(office: Office) -> None:
    allow(office)
    register_model(office, public=True, seed=5)
    made = create(office)
    office.bring_into_use(made.key_id, made.version)
    history = History()
    for entry in office.registry.log.entries(0, 10_000):
        history.add(parse_entry(entry.body))

    assert office.states() == {(ALDER, 1): "active"}
