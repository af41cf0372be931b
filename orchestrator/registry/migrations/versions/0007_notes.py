"""Keep what people typed with a record beside the log, where it can only be erased.

The database refuses to change a note, to put another in its place, and to empty the
table. Records that are there already keep the reasons they state: nothing changes them.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

REFUSAL: Final = "audit_notes is append-only: a note is erased, never changed"
EXISTS: Final = 'EXISTS (SELECT 1 FROM audit_notes WHERE "index" = NEW."index")'


def upgrade() -> None:
    op.create_table(
        "audit_notes",
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("index", name=op.f("pk_audit_notes")),
        sa.ForeignKeyConstraint(
            ["index"], ["audit_leaves.index"], name=op.f("fk_audit_notes_index")
        ),
        sa.CheckConstraint(
            "length(salt) = 32", name=op.f("ck_audit_notes_salt_length")
        ),
    )
    if op.get_context().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def downgrade() -> None:
    op.drop_table("audit_notes")
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION keymixer_only_erased()")


def _guard_sqlite() -> None:
    for name, moment in (
        ("no_update", "BEFORE UPDATE ON audit_notes"),
        # INSERT OR REPLACE fires no trigger for the row that goes.
        ("no_replace", f"BEFORE INSERT ON audit_notes WHEN {EXISTS}"),
    ):
        op.execute(
            f"CREATE TRIGGER audit_notes_{name} {moment} "
            f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
        )


def _guard_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION keymixer_only_erased() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', "
        f"MESSAGE = '{REFUSAL}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_notes_no_update BEFORE UPDATE OR TRUNCATE ON audit_notes "
        "FOR EACH STATEMENT EXECUTE FUNCTION keymixer_only_erased()"
    )
