"""The registry's rows: who may change them, and that the log says so."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from core.errors import (
    Conflict,
    CorruptFileError,
    InvalidInput,
    NotAllowedError,
    NotFound,
    NotGrantedError,
    SignatureError,
    TooLargeError,
)
from core.manifest import MAX_BYTES
from core.rpc.identity import DATA_OWNER
from core.sealing import X25519, SealingKey
from core.statements import ISSUE, MANIFEST, sign
from orchestrator.registry import store
from orchestrator.registry.lifecycle import PartyState
from orchestrator.registry.models import ModelVersion, Party
from orchestrator.workflows import keys
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    EVERYBODY,
    KEY_HOLDER_ID,
    MODEL,
    OPERATOR_ID,
    PROVIDER_ID,
    PROVIDER_KEY,
    RIVAL_ID,
    RIVAL_KEY,
    SERVER_ID,
    Office,
    manifest_bytes,
    register_model,
    spiffe,
)

SEALING = SealingKey(X25519, b"a" * 32).public_bytes()
OTHER_SEALING = SealingKey(X25519, b"b" * 32).public_bytes()


def test_a_party_is_enrolled_once(office: Office) -> None:
    with office.registry.own_change() as change:
        store.enrol(change, ALDER_ID)
    with office.registry.reading(OPERATOR_ID) as session:
        known = [party.spiffe_id for party in store.parties_for(session, OPERATOR_ID)]

    assert known == [str(party) for party in EVERYBODY]
    assert len(office.entries("party.enrolled")) == len(EVERYBODY)


def test_a_stranger_changes_and_reads_nothing(office: Office) -> None:
    stranger = spiffe("stranger", DATA_OWNER)

    with pytest.raises(NotAllowedError), office.change(stranger):
        pass
    with pytest.raises(NotAllowedError), office.registry.reading(stranger):
        pass


def test_a_revoked_party_is_refused_at_its_next_call(office: Office) -> None:
    with office.registry.own_change() as change:
        party = store.active_party(change.session, str(ALDER_ID))
        party.state = PartyState.REVOKED

    with pytest.raises(NotAllowedError), office.change(ALDER_ID):
        pass


def test_a_change_reads_its_clock_once_all_other_writers_are_kept_out(
    office: Office,
) -> None:
    """Otherwise a record would be older than the one before it, and a lease spent."""
    other = sqlite3.connect(office.folder / "registry.db", timeout=0)
    refused: list[str] = []

    def clock() -> int:
        with pytest.raises(sqlite3.OperationalError) as caught:
            other.execute("BEGIN IMMEDIATE")
        refused.append(str(caught.value))
        return office.clock()

    with replace(office.registry, clock=clock).own_change() as change:
        assert change.now_ms == office.clock.now_ms
    other.close()
    assert refused == ["database is locked"]


def test_a_change_that_fails_leaves_neither_rows_nor_records(office: Office) -> None:
    before = office.kinds()

    def grant_then_fail() -> None:
        with office.change() as change:
            keys.grant(change, str(ALDER_ID), MODEL)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        grant_then_fail()
    assert office.kinds() == before
    with pytest.raises(NotGrantedError), office.change() as change:
        keys.create(change, office.policies, str(ALDER_ID), MODEL)


def test_the_first_public_keys_stay(office: Office) -> None:
    with office.change(ALDER_ID) as change:
        store.register_public_keys(change, b"s" * 32, SEALING)
    with office.change(ALDER_ID) as change:
        again = store.register_public_keys(change, b"s" * 32, SEALING)
    with pytest.raises(Conflict), office.change(ALDER_ID) as change:
        store.register_public_keys(change, b"t" * 32, SEALING)
    with pytest.raises(Conflict), office.change(ALDER_ID) as change:
        store.register_public_keys(change, b"s" * 32, OTHER_SEALING)

    assert (again.signing_key, again.sealing_key) == (b"s" * 32, SEALING)
    actors = [entry.actor for entry in office.entries("party.keys_registered")]
    assert actors.count(str(ALDER_ID)) == 1


def test_the_first_public_keys_stay_without_a_sealing_key_too(office: Office) -> None:
    for _ in range(2):
        with office.change(SERVER_ID) as change:
            store.register_public_keys(change, b"s" * 32, b"")
    for signing, sealing in ((b"t" * 32, b""), (b"s" * 32, SEALING)):
        with pytest.raises(Conflict), office.change(SERVER_ID) as change:
            store.register_public_keys(change, signing, sealing)


def test_only_a_sealing_key_that_exists_is_recorded(office: Office) -> None:
    for party, sealing in ((ALDER_ID, SEALING), (SERVER_ID, b"")):
        with office.change(party) as change:
            store.register_public_keys(change, b"s" * 32, sealing)
    found = {e.actor: e.subject for e in office.entries("party.keys_registered")}

    digest = hashlib.sha256(SEALING).hexdigest()
    assert found[str(ALDER_ID)]["sealing_key_sha256"] == digest
    assert "sealing_key_sha256" not in found[str(SERVER_ID)]


@pytest.mark.parametrize("sealing", [b"sealing", SEALING[:-1], bytes(len(SEALING))])
def test_a_sealing_key_that_is_none_is_refused(office: Office, sealing: bytes) -> None:
    with pytest.raises(CorruptFileError), office.change(ALDER_ID) as change:
        store.register_public_keys(change, b"s" * 32, sealing)


@pytest.mark.parametrize(
    ("signing", "sealing"), [(b"", b""), (b"s" * 31, b""), (b"s" * 32, b"x" * 4097)]
)
def test_public_keys_of_a_wrong_length_are_refused(
    office: Office, signing: bytes, sealing: bytes
) -> None:
    with pytest.raises(InvalidInput), office.change(ALDER_ID) as change:
        store.register_public_keys(change, signing, sealing)


def test_versions_of_a_model_count_up(office: Office) -> None:
    assert [register_model(office, seed=s) for s in (1, 2)] == [2, 3]
    assert register_model(office, "another") == 1


def test_concurrent_registrations_get_distinct_versions(office: Office) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = list(
            pool.map(lambda s: register_model(office, seed=s), range(1, 13))
        )

    assert sorted(versions) == list(range(2, 14))


def test_a_release_must_be_signed_by_its_provider(office: Office) -> None:
    manifest = manifest_bytes()
    for signature in (
        sign(RIVAL_KEY, MANIFEST, manifest),
        sign(PROVIDER_KEY, ISSUE, manifest),
        sign(PROVIDER_KEY, MANIFEST, manifest + b" "),
        b"",
    ):
        with pytest.raises(SignatureError), office.change(PROVIDER_ID) as change:
            store.register_model_version(change, manifest, signature)


def test_a_provider_without_a_registered_key_registers_nothing(office: Office) -> None:
    newcomer = spiffe("newcomer", "model-provider")
    with office.registry.own_change() as change:
        store.enrol(change, newcomer)
    manifest = manifest_bytes("fresh")
    signature = sign(PROVIDER_KEY, MANIFEST, manifest)

    with pytest.raises(SignatureError), office.change(newcomer) as change:
        store.register_model_version(change, manifest, signature)


def test_a_models_name_belongs_to_its_first_provider(office: Office) -> None:
    manifest = manifest_bytes()
    signature = sign(RIVAL_KEY, MANIFEST, manifest)

    with pytest.raises(NotAllowedError), office.change(RIVAL_ID) as change:
        store.register_model_version(change, manifest, signature)


def test_a_signed_manifest_that_is_no_manifest_is_refused(office: Office) -> None:
    with pytest.raises(CorruptFileError), office.change(PROVIDER_ID) as change:
        store.register_model_version(change, b"{}", sign(PROVIDER_KEY, MANIFEST, b"{}"))


def test_a_release_registered_again_is_the_version_it_is(office: Office) -> None:
    """A provider that heard no answer asks again; other manifests came meanwhile."""
    assert register_model(office, seed=1) == 2
    assert register_model(office) == 1
    assert register_model(office, seed=1) == 2
    assert len(office.entries("model.registered")) == 2


def test_a_manifest_has_a_bound(office: Office) -> None:
    manifest = manifest_bytes() + b" " * MAX_BYTES
    signature = sign(PROVIDER_KEY, MANIFEST, manifest)

    with pytest.raises(TooLargeError), office.change(PROVIDER_ID) as change:
        store.register_model_version(change, manifest, signature)


def test_the_lineage_is_kept(office: Office) -> None:
    register_model(office, parent=1)
    with office.database.reading() as session:
        parents = session.scalars(select(ModelVersion.parent_id)).all()
        first = store.model_version(session, MODEL, 1).id

    assert parents == [None, first]


def test_a_parent_that_does_not_exist_is_refused(office: Office) -> None:
    with pytest.raises(NotFound):
        register_model(office, parent=7)


def test_an_alias_moves_and_each_move_is_recorded_once(office: Office) -> None:
    register_model(office, seed=1)
    for version in (1, 2, 2):
        with office.change(PROVIDER_ID) as change:
            store.set_alias(change, MODEL, "champion", version)
    with office.database.reading() as session:
        model = store.model_named(session, MODEL)
        found = store.aliases(session)

    assert found == {(model.id, 2): ["champion"]}
    moves = office.entries("alias.moved")
    assert [entry.subject["model_version"] for entry in moves] == [1, 2]


def test_the_champion_is_the_alias_else_the_newest(office: Office) -> None:
    def champion() -> int:
        with office.database.reading() as session:
            model = store.model_named(session, MODEL)
            found = store.champion(session, model.id)
            assert found is not None
            return found.version

    assert champion() == 1
    register_model(office, seed=1)
    assert champion() == 2
    with office.change() as change:
        store.set_alias(change, MODEL, store.CHAMPION, 1)
    assert champion() == 1


def test_an_alias_points_only_to_a_version_that_exists(office: Office) -> None:
    with pytest.raises(NotFound), office.change() as change:
        store.set_alias(change, MODEL, "champion", 2)
    with pytest.raises(InvalidInput), office.change() as change:
        store.set_alias(change, MODEL, "", 1)


def test_a_provider_moves_no_alias_of_anothers_model(office: Office) -> None:
    with pytest.raises(NotAllowedError), office.change(RIVAL_ID) as change:
        store.set_alias(change, MODEL, "champion", 1)


def test_an_owner_sees_its_own_keys_and_issued_models_only(office: Office) -> None:
    alder, birch = office.active_key(ALDER_ID), office.active_key(BIRCH_ID)
    with office.database.reading() as session:
        keys_of = {
            caller: [row.key.key_id for row in store.key_versions_for(session, caller)]
            for caller in (ALDER_ID, BIRCH_ID, OPERATOR_ID, KEY_HOLDER_ID, SERVER_ID)
        }
        issued_of = [
            row.key_version.key.key_id
            for row in store.issued_models_for(session, ALDER_ID)
        ]
        with pytest.raises(NotAllowedError):
            store.key_versions_for(session, PROVIDER_ID)
        with pytest.raises(NotAllowedError):
            store.issued_models_for(session, PROVIDER_ID)

    assert keys_of == {
        ALDER_ID: [alder],
        BIRCH_ID: [birch],
        OPERATOR_ID: [alder, birch],
        KEY_HOLDER_ID: [alder, birch],
        SERVER_ID: [alder, birch],
    }
    assert issued_of == [alder]


def test_one_key_and_one_issue_are_found_without_reading_the_others(
    office: Office,
) -> None:
    alder, birch = office.active_key(ALDER_ID), office.active_key(BIRCH_ID)
    with office.database.reading() as session:
        found = [
            [
                row.key.key_id
                for row in store.key_versions_for(session, SERVER_ID, birch)
            ],
            [
                row.key_version.key.key_id
                for row in store.issued_models_for(session, SERVER_ID, alder, 1)
            ],
        ]
        another = store.issued_models_for(session, SERVER_ID, alder, 2)
        hidden = [
            *store.key_versions_for(session, ALDER_ID, birch),
            *store.issued_models_for(session, ALDER_ID, birch),
        ]

    assert found == [[birch], [alder]]
    assert list(another) == []
    assert hidden == []


def test_at_a_start_only_newcomers_are_enrolled(office: Office) -> None:
    newcomer = spiffe("newcomer", DATA_OWNER)
    with office.database.reading() as session:
        before = [party.spiffe_id for party in store.parties_for(session, OPERATOR_ID)]
    for _ in range(2):
        with office.registry.own_change() as change:
            store.enrol_all(change, [ALDER_ID, newcomer, OPERATOR_ID])
    with office.database.reading() as session:
        after = [party.spiffe_id for party in store.parties_for(session, OPERATOR_ID)]

    assert after == [*before, str(newcomer)]


@pytest.mark.parametrize(
    "read", [store.parties_for, store.key_versions_for, store.issued_models_for]
)
def test_long_lists_come_in_pages_that_miss_and_repeat_nothing(
    office: Office, monkeypatch: pytest.MonkeyPatch, read: Callable[..., Sequence[Any]]
) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    with office.database.reading() as session:
        whole = [row.id for row in read(session, OPERATOR_ID)]
        monkeypatch.setattr(store, "LARGEST_PAGE", 3)
        pages: list[list[int]] = []
        after = 0
        while page := read(session, OPERATOR_ID, after=after):
            pages.append([row.id for row in page])
            after = pages[-1][-1]

    assert whole
    assert [row for page in pages for row in page] == whole
    assert all(len(page) == 3 for page in pages[:-1])


def test_one_party_is_found_by_its_name_if_the_caller_may_see_it(
    office: Office,
) -> None:
    with office.database.reading() as session:
        seen = [
            [row.spiffe_id for row in store.parties_for(session, caller, str(BIRCH_ID))]
            for caller in (KEY_HOLDER_ID, BIRCH_ID, ALDER_ID)
        ]

    assert seen == [[str(BIRCH_ID)], [str(BIRCH_ID)], []]


def test_an_owner_sees_a_key_version_once_it_can_be_fetched(office: Office) -> None:
    with office.change() as change:
        keys.grant(change, str(ALDER_ID), MODEL)
        keys.create(change, office.policies, str(ALDER_ID), MODEL)

    def seen() -> int:
        with office.database.reading() as session:
            return len(store.key_versions_for(session, ALDER_ID))

    assert seen() == 0
    office.settle()
    assert seen() == 1


def test_parties_may_read_the_records_that_name_them(office: Office) -> None:
    key_id = office.active_key(ALDER_ID)
    mine = office.registry.log.entries(0, 1000, kind="key.created", party=str(ALDER_ID))
    others = office.registry.log.entries(0, 1000, party=str(BIRCH_ID))

    assert len(mine) == 1
    assert all(key_id.encode() not in entry.body for entry in others)


def test_every_party_keeps_one_row_for_its_organisation(office: Office) -> None:
    with office.database.reading() as session:
        hub = session.scalars(
            select(Party.organisation_id).where(Party.spiffe_id.contains("/hub/"))
        ).all()

    assert len(hub) == 2
    assert len(set(hub)) == 1
