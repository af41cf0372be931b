"""Find the records of a request by its id: an index of the log, kept like the log.

The records that are there already are indexed too.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None

TABLE: Final = "audit_request_ids"
REFUSAL: Final = f"{TABLE} is append-only"
EXISTS: Final = (
    f"EXISTS (SELECT 1 FROM {TABLE} "  # noqa: S608 - constants
    'WHERE request_id = NEW.request_id AND "index" = NEW."index")'
)
# How each database reads a fact of a stored body.
SQLITE_FACT: Final = "json_extract(CAST(body AS TEXT), '$.subject.request_id')"
POSTGRESQL_FACT: Final = (
    "convert_from(body, 'UTF8')::json -> 'subject' ->> 'request_id'"
)


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("request_id", sa.String(512), nullable=False),
        sa.Column("index", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "index", name=op.f(f"pk_{TABLE}")),
        sa.ForeignKeyConstraint(
            ["index"], ["audit_leaves.index"], name=op.f(f"fk_{TABLE}_index")
        ),
        sqlite_with_rowid=False,
    )
    if op.get_context().dialect.name == "postgresql":
        _fill(POSTGRESQL_FACT)
        _guard_postgresql()
    else:
        _fill(SQLITE_FACT)
        _guard_sqlite()


def downgrade() -> None:
    op.drop_table(TABLE)


def _fill(fact: str) -> None:
    op.execute(
        f'INSERT INTO {TABLE} (request_id, "index") '  # noqa: S608 - constants
        f'SELECT request_id, "index" FROM (SELECT {fact} AS request_id, "index" '
        "FROM audit_leaves) AS said WHERE request_id <> ''"
    )


def _guard_sqlite() -> None:
    for name, moment in (
        ("no_update", f"BEFORE UPDATE ON {TABLE}"),
        ("no_delete", f"BEFORE DELETE ON {TABLE}"),
        # INSERT OR REPLACE deletes without firing the trigger above.
        ("no_replace", f"BEFORE INSERT ON {TABLE} WHEN {EXISTS}"),
    ):
        op.execute(
            f"CREATE TRIGGER {TABLE}_{name} {moment} "
            f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
        )


def _guard_postgresql() -> None:
    op.execute(
        f"CREATE TRIGGER {TABLE}_append_only "
        f"BEFORE UPDATE OR DELETE OR TRUNCATE ON {TABLE} "
        "FOR EACH STATEMENT EXECUTE FUNCTION keymixer_append_only()"
    )
