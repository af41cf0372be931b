"""Every filter of the log gives on each database what reading everything gives."""

from pathlib import Path

import pytest

from core.database import Database
from orchestrator.audit import query
from orchestrator.audit.query import Question
from tests.unit.orchestrator.logs import new_log
from tests.unit.orchestrator.test_audit_query import (
    ACTORS,
    FIRST_MS,
    OWNERS,
    RECORDS,
    Archive,
    filled,
    fits,
)

MIDDLE_MS = FIRST_MS + RECORDS // 2
QUESTIONS = {
    "a reader": Question(reader=OWNERS[0]),
    "a party that is named": Question(named=(OWNERS[1],)),
    "two parties that are named": Question(named=(OWNERS[1], ACTORS[0])),
    "a kind": Question(kind="inference"),
    "refusals": Question(refused=True),
    "refusals of one kind": Question(refused=True, kind="inference.refused"),
    "an organisation": Question(organisation="alder"),
    "an actor's organisation": Question(organisation="hub"),
    "a model": Question(model="cells"),
    "a key": Question(key_id="birch.bones"),
    "a request": Question(request_id="r22"),
    "a beginning": Question(since_ms=MIDDLE_MS),
    "an end": Question(until_ms=MIDDLE_MS),
    "a span": Question(since_ms=MIDDLE_MS - 50, until_ms=MIDDLE_MS + 50),
    "a reader's own kind": Question(reader=OWNERS[0], kind="key.created"),
    "much at once": Question(
        reader=OWNERS[2],
        kind="inference",
        organisation="cedar",
        model="bones",
        since_ms=FIRST_MS + 10,
        until_ms=FIRST_MS + RECORDS - 10,
    ),
}


@pytest.fixture
def archive(database: Database, tmp_path: Path) -> Archive:
    return filled(database, new_log(database, tmp_path / "checkpoint.txt"))


def test_every_filter_is_answered_as_by_reading_everything(archive: Archive) -> None:
    for name, question in QUESTIONS.items():
        expected = [each.index for each in archive.written if fits(question, each)]

        assert 0 < len(expected) < RECORDS, f"{name} asks for something"
        for limit in (1, 7, RECORDS):
            assert archive.ask(question, limit) == expected, f"{name}, {limit} a page"


def test_small_looks_find_what_large_ones_do(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "_CHUNK", 7)
    monkeypatch.setattr(query, "_CHUNKS", 2)
    for name, question in QUESTIONS.items():
        expected = [each.index for each in archive.written if fits(question, each)]

        assert archive.ask(question, 5) == expected, name


@pytest.mark.parametrize(
    "question",
    [
        Question(reader="spiffe://demo/nobody/data-owner"),
        Question(kind="model.granted"),
        Question(refused=True, kind="inference"),
        Question(request_id="r' OR '1'='1"),
        Question(organisation="clo"),
    ],
)
def test_what_nothing_fits_is_answered_with_nothing(
    archive: Archive, question: Question
) -> None:
    assert archive.ask(question, 10) == []
