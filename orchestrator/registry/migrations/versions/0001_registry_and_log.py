"""Create the registry and the audit log.

The log's tables refuse UPDATE, DELETE and replacement by trigger. Never use Alembic's
batch mode on them: it recreates a table and drops its triggers.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

# The columns that name a row, of every table that only grows.
APPEND_ONLY: Final = {
    "audit_leaves": ("index",),
    "audit_leaf_parties": ("index", "spiffe_id"),
    "audit_nodes": ("level", "position"),
    "checkpoints": ("size",),
}

KEY_STATES: Final = (
    "('pre_active', 'active', 'retiring', 'suspended', 'compromised', "
    "'destroy_scheduled', 'destroyed')"
)
KEY_VERSION_RULES: Final = (
    ("version_positive", "version >= 1"),
    ("state_known", f"state IN {KEY_STATES}"),
    ("commitment_length", "length(commitment) = 32"),
    ("primary_serves", "NOT is_primary OR state IN ('active', 'suspended')"),
    ("confirmed_after_drawn", "NOT confirmed OR commitment IS NOT NULL"),
    ("usable_only_confirmed", "state NOT IN ('active', 'retiring') OR confirmed"),
    ("retiring_ends", "state <> 'retiring' OR retire_at_ms IS NOT NULL"),
    ("overlap_not_negative", "overlap_s >= 0"),
)


def upgrade() -> None:
    _create_organisations()
    _create_parties()
    _create_models()
    _create_model_versions()
    _create_model_aliases()
    _create_grants()
    _create_keys()
    _create_key_versions()
    _create_issued_models()
    _create_audit_leaves()
    _create_audit_leaf_parties()
    _create_audit_nodes()
    _create_checkpoints()
    if op.get_context().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def downgrade() -> None:
    """Drop everything, the log with its triggers too: for development only."""
    for table in (
        "checkpoints",
        "audit_nodes",
        "audit_leaf_parties",
        "audit_leaves",
        "issued_models",
        "key_versions",
        "keys",
        "grants",
        "model_aliases",
        "model_versions",
        "models",
        "parties",
        "organisations",
    ):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION keymixer_append_only()")


def _create_organisations() -> None:
    op.create_table(
        "organisations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        _primary("organisations", "id"),
        _unique("organisations", "name"),
    )


def _create_parties() -> None:
    op.create_table(
        "parties",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("spiffe_id", sa.String(512), nullable=False),
        sa.Column("organisation_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("signing_key", sa.LargeBinary(), nullable=True),
        sa.Column("sealing_key", sa.LargeBinary(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        _primary("parties", "id"),
        _unique("parties", "spiffe_id"),
        _foreign("parties", "organisation_id", "organisations.id"),
        _check("parties", "state_known", "state IN ('active', 'revoked')"),
        _check("parties", "signing_key_length", "length(signing_key) = 32"),
    )


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("provider_party_id", sa.Integer(), nullable=False),
        _primary("models", "id"),
        _unique("models", "name"),
        _foreign("models", "provider_party_id", "parties.id"),
    )


def _create_model_versions() -> None:
    table = "model_versions"
    op.create_table(
        table,
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("manifest_digest", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("embedding_digest", sa.LargeBinary(), nullable=False),
        sa.Column("backbone_digest", sa.LargeBinary(), nullable=False),
        sa.Column("public_embedding", sa.Boolean(), nullable=False),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        _primary(table, "id"),
        _unique(table, "model_id", "version"),
        _foreign(table, "model_id", "models.id"),
        _foreign(table, "parent_id", "model_versions.id"),
        _check(table, "version_positive", "version >= 1"),
        _check(table, "manifest_digest_length", "length(manifest_digest) = 32"),
        _check(table, "signature_length", "length(signature) = 64"),
        _check(table, "embedding_digest_length", "length(embedding_digest) = 32"),
        _check(table, "backbone_digest_length", "length(backbone_digest) = 32"),
        _check(table, "parent_is_another", "parent_id <> id"),
    )


def _create_model_aliases() -> None:
    op.create_table(
        "model_aliases",
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        _primary("model_aliases", "model_id", "alias"),
        _foreign("model_aliases", "model_id", "models.id"),
        sa.ForeignKeyConstraint(
            ["model_id", "version"],
            ["model_versions.model_id", "model_versions.version"],
            name=op.f("fk_model_aliases_model_id_version"),
        ),
    )


def _create_grants() -> None:
    op.create_table(
        "grants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner_party_id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        _primary("grants", "id"),
        _unique("grants", "owner_party_id", "model_id"),
        _foreign("grants", "owner_party_id", "parties.id"),
        _foreign("grants", "model_id", "models.id"),
        _check("grants", "revoked_after_created", "revoked_at_ms >= created_at_ms"),
    )


def _create_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("owner_party_id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("patch_size", sa.Integer(), nullable=False),
        sa.Column("channels", sa.Integer(), nullable=False),
        _primary("keys", "id"),
        _unique("keys", "key_id"),
        _unique("keys", "owner_party_id", "model_id"),
        _foreign("keys", "owner_party_id", "parties.id"),
        _foreign("keys", "model_id", "models.id"),
        _check("keys", "patch_size_positive", "patch_size >= 1"),
        _check("keys", "channels_positive", "channels >= 1"),
    )


def _create_key_versions() -> None:
    op.create_table(
        "key_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key_pk", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("generator", sa.String(64), nullable=True),
        sa.Column("commitment", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("is_primary", sa.Boolean(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("overlap_s", sa.Double(), nullable=False),
        sa.Column("retire_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        _primary("key_versions", "id"),
        _unique("key_versions", "key_pk", "version"),
        _foreign("key_versions", "key_pk", "keys.id"),
        *(_check("key_versions", *rule) for rule in KEY_VERSION_RULES),
    )
    op.create_index(
        "uq_key_versions_one_primary",
        "key_versions",
        ["key_pk"],
        unique=True,
        sqlite_where=sa.text("is_primary"),
        postgresql_where=sa.text("is_primary"),
    )


def _create_issued_models() -> None:
    table = "issued_models"
    states = "state IN ('pending', 'live', 'retiring', 'gone')"
    op.create_table(
        table,
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key_version_id", sa.Integer(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        _primary(table, "id"),
        _unique(table, "key_version_id", "model_version_id"),
        _foreign(table, "key_version_id", "key_versions.id"),
        _foreign(table, "model_version_id", "model_versions.id"),
        _check(table, "state_known", states),
        _check(table, "digest_length", "length(digest) = 32"),
        _check(table, "signature_length", "length(signature) = 64"),
    )


def _create_audit_leaves() -> None:
    op.create_table(
        "audit_leaves",
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        _primary("audit_leaves", "index"),
        _check("audit_leaves", "index_not_negative", '"index" >= 0'),
        _check("audit_leaves", "leaf_hash_length", "length(leaf_hash) = 32"),
    )
    op.create_index(op.f("ix_audit_leaves_kind"), "audit_leaves", ["kind"])


def _create_audit_leaf_parties() -> None:
    op.create_table(
        "audit_leaf_parties",
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("spiffe_id", sa.String(512), nullable=False),
        _primary("audit_leaf_parties", "index", "spiffe_id"),
        _foreign("audit_leaf_parties", "index", "audit_leaves.index"),
    )
    op.create_index(
        op.f("ix_audit_leaf_parties_spiffe_id"), "audit_leaf_parties", ["spiffe_id"]
    )


def _create_audit_nodes() -> None:
    op.create_table(
        "audit_nodes",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        _primary("audit_nodes", "level", "position"),
        _check("audit_nodes", "level_positive", "level >= 1"),
        _check("audit_nodes", "position_not_negative", "position >= 0"),
        _check("audit_nodes", "hash_length", "length(hash) = 32"),
    )


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        _primary("checkpoints", "size"),
        _check("checkpoints", "size_not_negative", "size >= 0"),
    )


def _guard_sqlite() -> None:
    for table, columns in APPEND_ONLY.items():
        refusal = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        same_row = " AND ".join(f'"{name}" = NEW."{name}"' for name in columns)
        exists = f"EXISTS (SELECT 1 FROM {table} WHERE {same_row})"  # noqa: S608 - constants
        for name, moment in (
            ("no_update", f"BEFORE UPDATE ON {table}"),
            ("no_delete", f"BEFORE DELETE ON {table}"),
            # INSERT OR REPLACE deletes without firing the trigger above.
            ("no_replace", f"BEFORE INSERT ON {table} WHEN {exists}"),
        ):
            op.execute(f"CREATE TRIGGER {table}_{name} {moment} {refusal}")


def _guard_postgresql() -> None:
    """Refuse by statement: that covers TRUNCATE and ON CONFLICT DO UPDATE too."""
    op.execute(
        "CREATE FUNCTION keymixer_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', "
        "MESSAGE = TG_TABLE_NAME || ' is append-only'; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only "
            f"BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION keymixer_append_only()"
        )


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    name = "_".join(("uq", table, *columns))
    return sa.UniqueConstraint(*columns, name=op.f(name))


def _foreign(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}")
    return sa.ForeignKeyConstraint([column], [target], name=name)


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))
