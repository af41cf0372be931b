"""A request's records are found by its id, those from before there was an index too."""

from pathlib import Path

from alembic import command
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database import Database, schema
from orchestrator.audit.query import Question, read_page
from orchestrator.audit.writer import AuditLog
from orchestrator.registry.database import MIGRATIONS
from orchestrator.registry.models import AuditRequestId
from tests.unit.orchestrator.logs import OPERATOR, OWNER, new_log


def test_records_from_before_the_index_are_in_it(
    database: Database, tmp_path: Path
) -> None:
    written = new_log(database, tmp_path / "checkpoint.txt")
    with database.transaction() as session:
        fill(session, written)
    with database.reading() as session:
        expected = rows(session)
    with database.transaction() as session:
        migrations = schema.migrations(MIGRATIONS, session.connection())
        command.downgrade(migrations, "0007")
        command.upgrade(migrations, "head")

    with database.reading() as session:
        assert rows(session) == expected == [("r'1", 1), ("r'1", 3), ("r2", 2)]


def test_only_the_records_of_the_request_are_looked_at(
    database: Database, tmp_path: Path
) -> None:
    written = new_log(database, tmp_path / "checkpoint.txt")
    with database.transaction() as session:
        fill(session, written)

    with database.reading() as session:
        page = read_page(session, Question(request_id="r'1"), 0, 10)
        of_a_kind = Question(request_id="r'1", kind="inference.refused")
        (refused,) = read_page(session, of_a_kind, 0, 10).entries
    assert [entry.index for entry in page.entries] == [1, 3]
    assert refused.index == 3


def test_a_request_without_a_name_is_in_no_index(
    database: Database, tmp_path: Path
) -> None:
    written = new_log(database, tmp_path / "checkpoint.txt")
    with database.transaction() as session:
        for unnamed in ("", 7):
            written.append(session, "inference", OPERATOR, {"request_id": unnamed})

    with database.reading() as session:
        assert rows(session) == []


def fill(session: Session, log: AuditLog) -> None:
    """Two requests, one of them told of twice; the first record names none."""
    log.append(session, "key.created", OPERATOR, {"model": "m"})
    for kind, request in (
        ("inference", "r'1"),
        ("inference", "r2"),
        ("inference.refused", "r'1"),
    ):
        log.append(session, kind, OPERATOR, {"request_id": request}, [OWNER])


def rows(session: Session) -> list[tuple[str, int]]:
    query = select(AuditRequestId.request_id, AuditRequestId.index)
    found = session.execute(query.order_by(AuditRequestId.request_id)).all()
    return sorted((request, index) for request, index in found)
