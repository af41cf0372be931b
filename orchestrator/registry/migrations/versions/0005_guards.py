"""Have the database itself refuse a record out of its place, and a renamed event.

The log's tables refuse to be changed already. Now a record must have the next index
too, and what a reporter called its records stays as it was.
"""

from typing import Final

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None

SIZE: Final = '(SELECT coalesce(max("index") + 1, 0) FROM audit_leaves)'
REFUSAL: Final = "audit_leaves is append-only: a record has the next index"
SAME_NAME: Final = "actor = NEW.actor AND event_id = NEW.event_id"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP TRIGGER audit_leaves_in_order ON audit_leaves")
        op.execute("DROP TRIGGER audit_event_ids_no_update ON audit_event_ids")
        op.execute("DROP FUNCTION keymixer_next_index()")
        return
    op.execute("DROP TRIGGER audit_leaves_in_order")
    op.execute("DROP TRIGGER audit_event_ids_no_update")
    op.execute("DROP TRIGGER audit_event_ids_no_replace")


def _guard_sqlite() -> None:
    op.execute(
        "CREATE TRIGGER audit_leaves_in_order BEFORE INSERT ON audit_leaves "
        f'WHEN NEW."index" IS NOT {SIZE} '
        f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
    )
    refusal = "BEGIN SELECT RAISE(ABORT, 'audit_event_ids is append-only'); END"
    exists = f"EXISTS (SELECT 1 FROM audit_event_ids WHERE {SAME_NAME})"  # noqa: S608 - constants
    for name, moment in (
        ("no_update", "BEFORE UPDATE ON audit_event_ids"),
        # INSERT OR REPLACE deletes without firing the trigger that keeps the rows.
        ("no_replace", f"BEFORE INSERT ON audit_event_ids WHEN {exists}"),
    ):
        op.execute(f"CREATE TRIGGER audit_event_ids_{name} {moment} {refusal}")


def _guard_postgresql() -> None:
    """A trigger that runs before a row sees the rows before it in its statement."""
    op.execute(
        "CREATE FUNCTION keymixer_next_index() RETURNS trigger LANGUAGE plpgsql AS "
        f'$$ BEGIN IF NEW."index" IS DISTINCT FROM {SIZE} THEN '
        "RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', "
        f"MESSAGE = '{REFUSAL}'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_leaves_in_order BEFORE INSERT ON audit_leaves "
        "FOR EACH ROW EXECUTE FUNCTION keymixer_next_index()"
    )
    op.execute(
        "CREATE TRIGGER audit_event_ids_no_update BEFORE UPDATE ON audit_event_ids "
        "FOR EACH STATEMENT EXECUTE FUNCTION keymixer_append_only()"
    )
