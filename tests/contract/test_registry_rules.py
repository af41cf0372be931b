"""The rules of the registry are kept by the database, whoever writes to it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import CheckConstraint, delete, select, update

from core.database import Database
from core.errors import ConstraintConflict
from orchestrator.registry.lifecycle import IssuedState, JobState, KeyState
from orchestrator.registry.models import (
    LONGEST_ARGUMENTS,
    LONGEST_COSIGNED,
    ApprovalVote,
    AuditNote,
    Base,
    Cosignature,
    Grant,
    Job,
    Key,
    KeyVersion,
    Model,
    ModelAlias,
    ModelVersion,
    Organisation,
    Party,
)
from tests.unit.orchestrator.rows import (
    DIGEST,
    add,
    approval,
    issued_model,
    job,
    key,
    key_version,
    model,
    model_version,
    party,
)

LOG_TABLES = {"audit_leaves", "audit_leaf_parties", "audit_nodes", "checkpoints"}
NEEDS_AN_UPDATE = "ck_model_versions_parent_is_another"

Rows = Callable[[], Sequence[object]]


def cosignature(**changed: Any) -> Cosignature:
    fields: dict[str, Any] = {"size": 1, "at_s": 1, "note": b"note"}
    return Cosignature(party=party("data-owner"), **fields | changed)


def two_models_of_one_name() -> Sequence[object]:
    first = model("a")
    return first, Model(name="a", provider=first.provider)


def two_owners_of_one_key_id() -> Sequence[object]:
    first = key("k1")
    return first, key("k1", owner=party("data-owner", "other"), model=first.model)


def two_keys_of_one_owner_and_model() -> Sequence[object]:
    first = key("k1")
    return first, key("k2", owner=first.owner, model=first.model)


def two_primaries() -> Sequence[object]:
    of = key()
    return key_version(of, 1, is_primary=True), key_version(of, 2, is_primary=True)


def the_same_version_twice() -> Sequence[object]:
    of = model()
    return model_version(of, 1), model_version(of, 1)


def the_same_key_version_twice() -> Sequence[object]:
    of = key()
    return key_version(of, 1), key_version(of, 1)


def the_same_issue_twice() -> Sequence[object]:
    of = key()
    held, released = key_version(of), model_version(of.model)
    return issued_model(held, released), issued_model(held, released)


def two_grants_of_one_model() -> Sequence[object]:
    grants = [Grant(created_at_ms=1), Grant(created_at_ms=2)]
    owner, granted = party(), model()
    for grant in grants:
        grant.owner, grant.model = owner, granted
    return grants


def an_alias_of_anothers_version() -> Sequence[object]:
    """Version 2 exists, but only of the other model."""
    ours, theirs = model_version(model("ours"), 1), model_version(model("theirs"), 2)
    return ours, theirs, ModelAlias(model=ours.model, alias="champion", version=2)


def two_votes_of_one_operator() -> Sequence[object]:
    request = approval()
    request.votes = [ApprovalVote(operator="o", at_ms=at) for at in (1, 2)]
    return [request]


def granted(**changed: Any) -> Rows:
    return lambda: [Grant(owner=party(), model=model(), created_at_ms=1, **changed)]


def issued(**changed: object) -> Rows:
    def rows() -> Sequence[object]:
        of = key()
        return [issued_model(key_version(of), model_version(of.model), **changed)]

    return rows


TOO_LONG: dict[str, Any] = {"arguments": bytes(LONGEST_ARGUMENTS + 1)}

# What is broken, and which constraint says so (SQLite names columns, PostgreSQL rules).
BROKEN: dict[str, tuple[str, Rows]] = {
    "an organisation named twice": (
        "organisations[._]name",
        lambda: [Organisation(name="a"), Organisation(name="a")],
    ),
    "a model named twice": ("models[._]name", two_models_of_one_name),
    "an unknown party state": ("ck_parties_state_known", lambda: [party(state="lost")]),
    "a short signing key": (
        "ck_parties_signing_key_length",
        lambda: [party(signing_key=bytes(31))],
    ),
    "model version 0": (
        "ck_model_versions_version_positive",
        lambda: [model_version(model(), 0)],
    ),
    "a model version twice": ("model_versions[._]model_id", the_same_version_twice),
    "a short manifest digest": (
        "ck_model_versions_manifest_digest_length",
        lambda: [model_version(model(), manifest_digest=b"x")],
    ),
    "a short release signature": (
        "ck_model_versions_signature_length",
        lambda: [model_version(model(), signature=b"x")],
    ),
    "a short embedding digest": (
        "ck_model_versions_embedding_digest_length",
        lambda: [model_version(model(), embedding_digest=b"x")],
    ),
    "a short backbone digest": (
        "ck_model_versions_backbone_digest_length",
        lambda: [model_version(model(), backbone_digest=b"x")],
    ),
    "a parent that does not exist": (
        "FOREIGN KEY|fk_model_versions_parent_id",
        lambda: [model_version(model(), parent_id=999)],
    ),
    "a key id twice": ("keys[._]key_id", two_owners_of_one_key_id),
    "a second key for one owner and model": (
        "keys[._]owner_party_id",
        two_keys_of_one_owner_and_model,
    ),
    "a patch of 0 pixels": (
        "ck_keys_patch_size_positive",
        lambda: [key(patch_size=0)],
    ),
    "a key without channels": ("ck_keys_channels_positive", lambda: [key(channels=0)]),
    "key version 0": (
        "ck_key_versions_version_positive",
        lambda: [key_version(key(), 0)],
    ),
    "a key version twice": (
        r"key_versions[._]key_pk.*version",
        the_same_key_version_twice,
    ),
    "an unknown key state": (
        "ck_key_versions_state_known",
        lambda: [key_version(key(), state="lost")],
    ),
    "a short commitment": (
        "ck_key_versions_commitment_length",
        lambda: [key_version(key(), commitment=b"x")],
    ),
    "two primary versions of a key": (
        r"key_versions\.key_pk$|uq_key_versions_one_primary",
        two_primaries,
    ),
    "a primary version that is retiring": (
        "ck_key_versions_primary_serves",
        lambda: [key_version(key(), state="retiring", retire_at_ms=1, is_primary=True)],
    ),
    "a confirmation before the key was drawn": (
        "ck_key_versions_confirmed_after_drawn",
        lambda: [key_version(key(), state="pre_active", commitment=None)],
    ),
    "an active version that nobody confirmed": (
        "ck_key_versions_usable_only_confirmed",
        lambda: [key_version(key(), confirmed=False)],
    ),
    "a retiring version without an end": (
        "ck_key_versions_retiring_ends",
        lambda: [key_version(key(), state="retiring")],
    ),
    "a negative overlap": (
        "ck_key_versions_overlap_not_negative",
        lambda: [key_version(key(), overlap_s=-1.0)],
    ),
    "two grants of one model to one owner": (
        "grants[._]owner_party_id",
        two_grants_of_one_model,
    ),
    "a grant revoked before it was made": (
        "ck_grants_revoked_after_created",
        lambda: [Grant(owner=party(), model=model(), created_at_ms=2, revoked_at_ms=1)],
    ),
    "a budget below zero": (
        "ck_grants_max_images_not_negative",
        granted(max_images=-1),
    ),
    "an unknown period of a budget": (
        "ck_grants_budget_period_known",
        granted(budget_period="week"),
    ),
    "more images than the budget has": (
        "ck_grants_within_budget",
        granted(max_images=2, images_used=3),
    ),
    "images below zero on a grant": (
        "ck_grants_within_budget",
        granted(images_used=-1),
    ),
    "an issue twice": ("issued_models[._]key_version_id", the_same_issue_twice),
    "an unknown state of an issue": (
        "ck_issued_models_state_known",
        issued(state="lost"),
    ),
    "a short issue digest": ("ck_issued_models_digest_length", issued(digest=b"x")),
    "a short issue signature": (
        "ck_issued_models_signature_length",
        issued(signature=b"x"),
    ),
    "images below zero": (
        "ck_key_versions_images_not_negative",
        lambda: [key_version(key(), images_used=-1)],
    ),
    "an unknown state of a job": ("ck_jobs_state_known", lambda: [job(state="lost")]),
    "a job with a book in it": ("ck_jobs_arguments_bounded", lambda: [job(**TOO_LONG)]),
    "a fence below zero": ("ck_jobs_fence_not_negative", lambda: [job(fence=-1)]),
    "attempts below zero": (
        "ck_jobs_attempts_not_negative",
        lambda: [job(attempts=-1)],
    ),
    "a lease without an end": (
        "ck_jobs_lease_is_whole",
        lambda: [job(lease_holder="p")],
    ),
    "a lease without a holder": (
        "ck_jobs_lease_is_whole",
        lambda: [job(lease_until_ms=1)],
    ),
    "two open jobs on one subject": (
        r"jobs\.subject$|uq_jobs_one_open",
        lambda: [job(), job(state="waiting")],
    ),
    "a job for a key version that does not exist": (
        "FOREIGN KEY|fk_jobs_key_version_id",
        lambda: [job(key_version_id=999)],
    ),
    "an unknown state of an approval": (
        "ck_approvals_state_known",
        lambda: [approval(state="lost")],
    ),
    "an approval with a book in it": (
        "ck_approvals_arguments_bounded",
        lambda: [approval(**TOO_LONG)],
    ),
    "an approval that expired before it was asked for": (
        "ck_approvals_expires_later",
        lambda: [approval(expires_at_ms=1)],
    ),
    "two votes of one operator": (
        "approval_votes[._]approval_id|pk_approval_votes",
        two_votes_of_one_operator,
    ),
    "a cosignature of less than nothing": (
        "ck_cosignatures_size_not_negative",
        lambda: [cosignature(size=-1)],
    ),
    "a cosignature with a book in it": (
        "ck_cosignatures_note_bounded",
        lambda: [cosignature(note=bytes(LONGEST_COSIGNED + 1))],
    ),
    "a note with a short salt": (
        "ck_audit_notes_salt_length",
        lambda: [AuditNote(index=0, salt=b"salt", text="lost")],
    ),
    "an alias of another model's version": (
        "FOREIGN KEY|fk_model_aliases_model_id_version",
        an_alias_of_anothers_version,
    ),
}


@pytest.mark.parametrize(("rule", "rows"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_is_refused(database: Database, rule: str, rows: Rows) -> None:
    with (
        pytest.raises(ConstraintConflict, match=rule),
        database.transaction() as session,
    ):
        add(session, *rows())


def test_every_check_of_the_models_is_broken_above() -> None:
    """Whoever adds a rule is told to break it, too."""
    tables = Base.metadata.sorted_tables
    rules = {
        str(constraint.name)
        for table in tables
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint) and table.name not in LOG_TABLES
    }

    assert rules - {rule for rule, _ in BROKEN.values()} == {NEEDS_AN_UPDATE}


def test_rows_that_keep_the_rules_are_accepted(database: Database) -> None:
    """The oracle of the test above: without the one change, the rows go in."""
    with database.transaction() as session:
        of = key()
        parent = model_version(of.model, 1)
        released = model_version(of.model, 2, parent=parent, public_embedding=True)
        add(session, of, parent, released)
        held = key_version(of, 1, is_primary=True)
        add(session, held, issued_model(held, released))
        add(session, Grant(owner=of.owner, model=of.model, created_at_ms=1))
        add(session, ModelAlias(model_id=of.model_id, alias="champion", version=2))

    with database.reading() as session:
        found = session.scalars(select(KeyVersion)).one()
        assert (
            found.commitment,
            found.is_primary,
            found.overlap_s,
            found.reason,
        ) == (DIGEST, True, 0.0, "")


@pytest.mark.parametrize("state", KeyState)
def test_every_state_of_a_key_can_be_stored(database: Database, state: str) -> None:
    with database.transaction() as session:
        add(session, key_version(key(), state=state, retire_at_ms=5))


@pytest.mark.parametrize("state", IssuedState)
def test_every_state_of_an_issue_can_be_stored(database: Database, state: str) -> None:
    with database.transaction() as session:
        add(session, *issued(state=state)())


@pytest.mark.parametrize("state", JobState)
def test_every_state_of_a_job_can_be_stored(database: Database, state: str) -> None:
    with database.transaction() as session:
        add(session, job(state=state, arguments=bytes(LONGEST_ARGUMENTS)))


def test_a_subject_has_any_number_of_jobs_that_ended(database: Database) -> None:
    with database.transaction() as session:
        add(session, job(state="done"), job(state="aborted"), job(state="done"), job())


def test_a_primary_can_be_handed_on_in_one_transaction(database: Database) -> None:
    """The old one is cleared and flushed first: the index is checked at once."""
    with database.transaction() as session:
        of = key()
        old, new = key_version(of, 1, is_primary=True), key_version(of, 2)
        add(session, old, new)
        old.is_primary, old.state, old.retire_at_ms = False, "retiring", 9
        session.flush()
        new.is_primary = True

    with database.reading() as session:
        primary = select(KeyVersion.version).where(KeyVersion.is_primary)
        assert list(session.scalars(primary)) == [2]


def test_keys_of_different_owners_each_have_a_primary(database: Database) -> None:
    with database.transaction() as session:
        first = key("k1")
        second = key("k2", owner=party("data-owner", "other"), model=first.model)
        add(session, *(key_version(k, is_primary=True) for k in (first, second)))


@pytest.mark.parametrize("table", [Party, Model, ModelVersion, Key, KeyVersion, Job])
def test_a_row_that_names_something_cannot_be_deleted(
    database: Database, table: type[Base]
) -> None:
    """A number that could be free again could be used twice."""
    with database.transaction() as session:
        add(session, key_version(key(), 1), model_version(model("b"), 1), job())

    with (
        pytest.raises(ConstraintConflict, match=r"keeps its rows|append-only"),
        database.transaction() as session,
    ):
        session.execute(delete(table))
    with database.reading() as session:
        assert session.scalars(select(table)).first() is not None


def test_a_version_is_not_its_own_parent(database: Database) -> None:
    with database.transaction() as session:
        add(session, model_version(model(), 1))

    with (
        pytest.raises(ConstraintConflict, match=NEEDS_AN_UPDATE),
        database.transaction() as session,
    ):
        session.execute(update(ModelVersion).values(parent_id=ModelVersion.id))
