"""Questions to the log, against the slow obvious way: read everything and look."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from core.database import Database
from core.errors import InvalidInput
from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from orchestrator.audit import query
from orchestrator.audit.query import Question, read_page
from orchestrator.audit.records import Fact
from orchestrator.audit.service import AuditService
from orchestrator.audit.writer import AuditLog
from protos import audit_pb2 as pb
from tests.fakes import Aborted, fake_context
from tests.unit.orchestrator.logs import opened
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    OPERATOR_ID,
    PROVIDER_ID,
    Office,
)

RECORDS = 300
FIRST_MS = 1_750_000_000_000
ORGANISATIONS = ("alder", "birch", "cedar")
OWNERS = tuple(f"spiffe://demo/{name}/data-owner" for name in ORGANISATIONS)
ACTORS = ("spiffe://demo/hub/operator", "spiffe://demo/cloud/inference-server", "")
KINDS = ("inference", "inference.refused", "refused", "key.created")
MODELS = ("cells", "bones")
NOBODY = "spiffe://demo/nobody/data-owner"


@dataclass(frozen=True)
class Written:
    """A record, and who may read it."""

    index: int
    body: bytes
    readers: frozenset[str]


@dataclass(frozen=True)
class Archive:
    """A made-up log, and the same records in a list."""

    database: Database
    written: list[Written]

    def ask(self, question: Question, limit: int) -> list[int]:
        """Every page, as a client reads them; indices in the order they came."""
        found: list[int] = []
        start = 0
        while True:
            with self.database.reading() as session:
                page = read_page(session, question, start, limit)
            assert len(page.entries) <= limit
            assert all(
                entry.body == self.written[entry.index].body for entry in page.entries
            )
            found += [entry.index for entry in page.entries]
            if not page.next_start:
                return found
            assert page.next_start > start, "it goes on"
            start = page.next_start


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with opened(tmp_path_factory.mktemp("log")) as (database, log):
        yield filled(database, log)


def filled(database: Database, log: AuditLog) -> Archive:
    """An archive of made-up records, the same each time."""
    random = Random(8)
    written = []
    with database.transaction() as session:
        for _ in range(RECORDS):
            kind, owner = random.choice(KINDS), random.choice(OWNERS)
            actor = random.choice(ACTORS)
            facts = _facts(random, kind, owner)
            index = log.append(session, kind, actor, facts, [owner])
            written.append((index, frozenset({owner, actor} - {""})))
    bodies = {entry.index: entry.body for entry in log.entries(0, RECORDS)}
    return Archive(database, [Written(i, bodies[i], who) for i, who in written])


def _facts(random: Random, kind: str, owner: str) -> dict[str, Fact]:
    if kind == "refused":
        return {"caller": owner, "kind": "NotAllowed", "method": "/x/Y"}
    return {
        "owner": owner,
        "key_id": f"{owner.split('/')[3]}.{random.choice(MODELS)}",
        "model": random.choice(MODELS),
        "request_id": f"r{random.randrange(40)}",
    }


def fits(question: Question, written: Written) -> bool:
    """The oracle: every body is read, and nothing else."""
    record = json.loads(written.body)
    facts = record["subject"]
    said = [record["actor"], facts.get("owner", ""), facts.get("caller", "")]
    at_ms = record["time_ms"]
    return (
        (not question.reader or question.reader in written.readers)
        and all(each in written.readers for each in question.named)
        and question.kind in ("", record["kind"])
        and (not question.refused or record["kind"].endswith("refused"))
        and (
            not question.organisation
            or any(f"/{question.organisation}/" in each for each in said)
        )
        and question.model in ("", facts.get("model"))
        and question.key_id in ("", facts.get("key_id"))
        and question.request_id in ("", facts.get("request_id"))
        and at_ms >= question.since_ms
        and (not question.until_ms or at_ms < question.until_ms)
    )


def _maybe(*values: str) -> st.SearchStrategy[str]:
    return st.sampled_from(("", "", *values))


_moments = st.one_of(st.just(0), st.integers(FIRST_MS - 5, FIRST_MS + RECORDS + 5))
questions = st.builds(
    Question,
    reader=_maybe(*OWNERS, NOBODY, ACTORS[1]),
    named=st.lists(st.sampled_from((*OWNERS, ACTORS[0])), max_size=2).map(tuple),
    kind=_maybe(*KINDS, "model.granted"),
    refused=st.booleans(),
    organisation=_maybe(*ORGANISATIONS, "hub", "cloud", "clo"),
    model=_maybe(*MODELS, "hearts"),
    key_id=_maybe("alder.cells", "birch.bones"),
    request_id=_maybe("r1", "r22"),
    since_ms=_moments,
    until_ms=_moments,
)


@given(questions, st.sampled_from([1, 7, 1000]))
def test_every_question_is_answered_as_by_reading_everything(
    archive: Archive, question: Question, limit: int
) -> None:
    """Which says too that paging misses and repeats nothing."""
    expected = [each.index for each in archive.written if fits(question, each)]

    assert archive.ask(question, limit) == expected


@pytest.mark.parametrize("chunk", [1, 3, 299, 300, 301])
def test_a_rare_answer_takes_several_calls_none_of_which_looks_far(
    archive: Archive, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "_CHUNK", chunk)
    monkeypatch.setattr(query, "_CHUNKS", 2)
    rare = Question(organisation="nobody")
    start, calls = 0, 0
    while True:
        calls += 1
        with archive.database.reading() as session:
            page = read_page(session, rare, start, 100)
        assert page.entries == []
        assert page.next_start - start <= 2 * chunk
        if not page.next_start:
            break
        start = page.next_start

    assert calls == -(-RECORDS // (2 * chunk))


@given(question=questions)
def test_small_looks_find_what_large_ones_do(
    archive: Archive, question: Question
) -> None:
    expected = [each.index for each in archive.written if fits(question, each)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query, "_CHUNK", 3)
        patch.setattr(query, "_CHUNKS", 2)

        assert archive.ask(question, 5) == expected


def test_where_a_party_goes_on_says_nothing_of_others_records(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A next start that lay among others' records would count them."""
    monkeypatch.setattr(query, "_CHUNK", 2)
    monkeypatch.setattr(query, "_CHUNKS", 1)
    mine = {each.index for each in archive.written if OWNERS[0] in each.readers}
    question = Question(reader=OWNERS[0], named=(OWNERS[1],), kind="inference")
    start = 0
    while True:
        with archive.database.reading() as session:
            start = read_page(session, question, start, 10).next_start
        if not start:
            break
        assert start - 1 in mine


def test_the_size_says_where_new_records_begin(archive: Archive) -> None:
    with archive.database.reading() as session:
        page = read_page(session, Question(), 2**62, 1)

    assert ([], 0, RECORDS) == page


@pytest.mark.parametrize(("since_ms", "until_ms"), [(-1, 0), (0, -1)])
def test_time_counts_from_zero(since_ms: int, until_ms: int) -> None:
    with pytest.raises(InvalidInput, match="since_ms >= 0"):
        Question(since_ms=since_ms, until_ms=until_ms)


_OF_KIND = """
    EXPLAIN QUERY PLAN SELECT "index" FROM audit_leaves
    WHERE kind = 'inference' AND "index" >= 5 ORDER BY "index" LIMIT 3
"""
_OF_PARTY = """
    EXPLAIN QUERY PLAN SELECT "index" FROM audit_leaf_parties
    WHERE spiffe_id = 'spiffe://a/b/c' AND "index" >= 5 ORDER BY "index" LIMIT 3
"""


@pytest.mark.parametrize(
    ("statement", "used"),
    [
        (_OF_KIND, "ix_audit_leaves_kind_index"),
        (_OF_PARTY, "ix_audit_leaf_parties_spiffe_id_index"),
    ],
)
def test_the_next_records_are_found_without_sorting_the_rest(
    archive: Archive, statement: str, used: str
) -> None:
    """A sort would read all that is left, however few are wanted."""
    with archive.database.reading() as session:
        plan = str(session.execute(text(statement)).all())

    assert used in plan
    assert "TEMP B-TREE" not in plan


# At the service: who reads what.


def _bodies(office: Office, caller: SpiffeId, **wanted: Any) -> list[bytes]:
    request = pb.ListEntriesRequest(**wanted)
    with acting_as(caller):
        answer = AuditService(office.registry).ListEntries(request, fake_context())
    return [entry.body for entry in answer.entries]


@pytest.mark.parametrize(
    "wanted",
    [
        {"owner": str(BIRCH_ID)},
        {"organisation": "birch"},
        {"model": "cells"},
        {"key_id": "birch.cells"},
        {"kind": "key.created"},
        {"refused": True},
        {"since_ms": 1},
        {"until_ms": 2**62},
        {"start": 3, "limit": 1000},
    ],
)
def test_through_no_filter_does_a_party_see_others_records(
    office: Office, wanted: dict[str, Any]
) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    seen = set(_bodies(office, ALDER_ID, **wanted))

    assert seen <= set(_bodies(office, ALDER_ID)), "a filter only leaves out"
    assert all(str(ALDER_ID).encode() in body for body in seen)
    assert not any(b"birch" in body for body in seen)


def test_a_party_filters_its_own_records(office: Office) -> None:
    office.active_key(ALDER_ID)
    mine = _bodies(office, ALDER_ID, kind="key.created", key_id="alder.cells")

    assert len(mine) == 1
    assert _bodies(office, PROVIDER_ID, model="cells", kind="model.registered")


def test_an_operator_finds_a_request_by_what_it_is_about(office: Office) -> None:
    """A request for two operators names owner and model in its arguments."""
    facts: dict[str, Fact] = {
        "action": "revoke_key",
        "arguments": json.dumps({"owner": str(BIRCH_ID), "model": "cells"}),
    }
    with office.change() as change:
        index = change.record("approval.requested", facts)
    (by_owner,) = _bodies(
        office, OPERATOR_ID, organisation="birch", kind="approval.requested"
    )
    (by_model,) = _bodies(office, OPERATOR_ID, model="cells", kind="approval.requested")

    assert by_owner == by_model
    assert json.loads(by_owner)["index"] == index


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "a\tb", "é", "a/b", "\U0001f511"])
def test_a_fact_is_found_however_json_writes_it(office: Office, odd: str) -> None:
    with office.change() as change:
        change.record("inference", {"request_id": odd})
        change.record("inference", {"request_id": "another"})

    assert len(_bodies(office, OPERATOR_ID, request_id=odd)) == 1


def test_an_owner_is_named_by_a_spiffe_id(office: Office) -> None:
    with pytest.raises(Aborted) as caught:
        _bodies(office, OPERATOR_ID, owner="birch")

    assert caught.value.args[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_from_the_size_on_come_the_new_records_only(tmp_path: Path) -> None:
    """What is committed after the size was read is for the next call."""
    with opened(tmp_path) as (database, log):
        with database.transaction() as session:
            log.append(session, "key.created", "", {"key_id": "a"}, [OWNERS[0]])
        with database.reading() as session:
            first = read_page(session, Question(), 0, 10)
        with database.transaction() as session:
            log.append(session, "key.created", "", {"key_id": "b"}, [OWNERS[0]])
        with database.reading() as session:
            second = read_page(session, Question(), first.size, 10)

    assert [0] == [entry.index for entry in first.entries]
    assert [1] == [entry.index for entry in second.entries]
