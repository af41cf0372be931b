"""Create the key holder's tables.

Key versions are guarded by trigger: rows are never deleted or replaced, what a version
is never changes, and a destroyed one never comes back. Never use Alembic's batch mode
on them: it recreates a table and drops its triggers.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

IDENTITY: Final = (
    "key_id",
    "version",
    "owner",
    "model",
    "generator",
    "patch_size",
    "channels",
    "commitment",
    "created_at_ms",
)
# Either a version that was drawn, whole and sealed, and with a receipt once destroyed;
# or one that was destroyed before it was drawn: without an owner and without a receipt.
KEY_VERSION_RULES: Final = {
    "version_positive": "version >= 1",
    "commitment_length": "length(commitment) = 32",
    "sealed_until_destroyed": (
        "(destroyed_at_ms IS NULL) = (sealed IS NOT NULL) "
        "AND (destroyed_at_ms IS NULL) = (wrapped IS NOT NULL) "
        "AND (destroyed_at_ms IS NULL) = (kek_id IS NOT NULL)"
    ),
    "drawn_for_an_owner": "destroyed_at_ms IS NOT NULL OR owner IS NOT NULL",
    "identity_is_whole": (
        "(owner IS NULL) = (model IS NULL) "
        "AND (owner IS NULL) = (generator IS NULL) "
        "AND (owner IS NULL) = (patch_size IS NULL) "
        "AND (owner IS NULL) = (channels IS NULL) "
        "AND (owner IS NULL) = (commitment IS NULL) "
        "AND (owner IS NULL) = (created_at_ms IS NULL)"
    ),
    "receipt_if_destroyed": (
        "(receipt IS NULL) = (destroyed_at_ms IS NULL OR owner IS NULL) "
        "AND (receipt IS NULL) = (receipt_signature IS NULL)"
    ),
}
_HAS_SUCH_A_ROW: Final = (
    "EXISTS (SELECT 1 FROM key_versions"
    " WHERE key_id = NEW.key_id AND version = NEW.version)"
)


def upgrade() -> None:
    _create_key_versions()
    _create_embeddings()
    if op.get_context().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def downgrade() -> None:
    """Drop everything, every key with it: for development only."""
    for table in ("embeddings", "key_versions"):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION keymixer_key_versions_kept()")


def _create_key_versions() -> None:
    table = "key_versions"
    op.create_table(
        table,
        sa.Column("key_id", sa.String(255), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(512), nullable=True),
        sa.Column("model", sa.String(255), nullable=True),
        sa.Column("generator", sa.String(64), nullable=True),
        sa.Column("patch_size", sa.Integer(), nullable=True),
        sa.Column("channels", sa.Integer(), nullable=True),
        sa.Column("commitment", sa.LargeBinary(), nullable=True),
        sa.Column("kek_id", sa.String(64), nullable=True),
        sa.Column("wrapped", sa.LargeBinary(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("destroyed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("receipt", sa.LargeBinary(), nullable=True),
        sa.Column("receipt_signature", sa.LargeBinary(), nullable=True),
        _primary(table, "key_id", "version"),
        *(_check(table, name, rule) for name, rule in KEY_VERSION_RULES.items()),
    )
    op.create_index(op.f("ix_key_versions_kek_id"), table, ["kek_id"])


def _create_embeddings() -> None:
    table = "embeddings"
    op.create_table(
        table,
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("kek_id", sa.String(64), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        _primary(table, "model", "version"),
        _check(table, "version_positive", "version >= 1"),
        _check(table, "digest_length", "length(digest) = 32"),
    )
    op.create_index(op.f("ix_embeddings_kek_id"), table, ["kek_id"])


def _guard_sqlite() -> None:
    changed = " OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in IDENTITY)
    for event, condition in (
        ("DELETE", "TRUE"),
        ("UPDATE", f"OLD.destroyed_at_ms IS NOT NULL OR {changed}"),
        # INSERT OR REPLACE deletes without a DELETE trigger.
        ("INSERT", _HAS_SUCH_A_ROW),
    ):
        op.execute(
            f"CREATE TRIGGER key_versions_kept_{event.lower()} "
            f"BEFORE {event} ON key_versions WHEN {condition} "
            "BEGIN SELECT RAISE(ABORT, 'key versions are kept as they are'); END"
        )


def _guard_postgresql() -> None:
    old = ", ".join(f"OLD.{name}" for name in IDENTITY)
    new = ", ".join(f"NEW.{name}" for name in IDENTITY)
    op.execute(
        "CREATE FUNCTION keymixer_key_versions_kept() RETURNS trigger "
        "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING "
        "ERRCODE = 'integrity_constraint_violation', "
        "MESSAGE = 'key versions are kept as they are'; END $$"
    )
    op.execute(
        "CREATE TRIGGER key_versions_kept_delete "
        "BEFORE DELETE OR TRUNCATE ON key_versions "
        "FOR EACH STATEMENT EXECUTE FUNCTION keymixer_key_versions_kept()"
    )
    op.execute(
        "CREATE TRIGGER key_versions_kept_update BEFORE UPDATE ON key_versions "
        "FOR EACH ROW WHEN (OLD.destroyed_at_ms IS NOT NULL "
        f"OR ({old}) IS DISTINCT FROM ({new})) "
        "EXECUTE FUNCTION keymixer_key_versions_kept()"
    )


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))
