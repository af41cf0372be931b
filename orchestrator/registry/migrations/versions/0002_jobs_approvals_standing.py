"""Add durable jobs, approvals, what a key version has answered, and named events."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

OPEN_JOBS: Final = sa.text("state IN ('ready', 'waiting', 'needs_operator')")
JOB_STATES: Final = "state IN ('ready', 'waiting', 'needs_operator', 'done', 'aborted')"
APPROVAL_STATES: Final = (
    "state IN ('pending', 'approved', 'executed', 'rejected', 'expired')"
)
ARGUMENTS_BOUNDED: Final = "length(arguments) <= 65536"
# Rows change their state here, but are never deleted: a number is never used twice.
KEPT: Final = (
    *("parties", "models", "model_versions", "keys", "key_versions", "issued_models"),
    *("jobs", "approvals", "approval_votes", "audit_event_ids"),
)
# The log's tables, and what their records are found by.
SEARCHED: Final = (("audit_leaves", "kind"), ("audit_leaf_parties", "spiffe_id"))


def upgrade() -> None:
    op.add_column("parties", _counter("revision"))
    op.create_index("ix_parties_revision", "parties", ["revision"])
    op.add_column("model_versions", sa.Column("exposed_at_ms", sa.BigInteger()))
    op.add_column("keys", sa.Column("held_for", sa.Text()))
    _extend_key_versions()
    _create_jobs()
    _index_jobs()
    _create_approvals()
    _create_approval_votes()
    _create_audit_event_ids()
    _index_log_in_its_order()
    _keep_rows()


def downgrade() -> None:
    """Forget the jobs, the votes and the names of events: for development only."""
    _let_rows_go()
    for table, column in SEARCHED:
        op.drop_index(f"ix_{table}_{column}_index", table)
        op.create_index(f"ix_{table}_{column}", table, [column])
    for table in ("audit_event_ids", "approval_votes", "approvals", "jobs"):
        op.drop_table(table)
    op.drop_index("ix_key_versions_revision", "key_versions")
    op.drop_index("ix_parties_revision", "parties")
    for column in ("revision", "images_used", "destroy_at_ms"):
        op.drop_column("key_versions", column)
    op.drop_column("keys", "held_for")
    op.drop_column("model_versions", "exposed_at_ms")
    op.drop_column("parties", "revision")


def _index_log_in_its_order() -> None:
    for table, column in SEARCHED:
        op.drop_index(f"ix_{table}_{column}", table)
        op.create_index(f"ix_{table}_{column}_index", table, [column, "index"])


def _keep_rows() -> None:
    if op.get_context().dialect.name == "postgresql":
        for table in KEPT:
            op.execute(
                f"CREATE TRIGGER {table}_kept BEFORE DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION keymixer_append_only()"
            )
        return
    for table in KEPT:
        refusal = f"BEGIN SELECT RAISE(ABORT, '{table} keeps its rows'); END"
        op.execute(f"CREATE TRIGGER {table}_kept BEFORE DELETE ON {table} {refusal}")


def _let_rows_go() -> None:
    on = " ON {}" if op.get_context().dialect.name == "postgresql" else ""
    for table in KEPT:
        op.execute(f"DROP TRIGGER {table}_kept" + on.format(table))


def _extend_key_versions() -> None:
    op.add_column("key_versions", sa.Column("destroy_at_ms", sa.BigInteger()))
    # A rule of the column: SQLite adds none to a table that exists.
    rule = _check("key_versions", "images_not_negative", "images_used >= 0")
    op.add_column("key_versions", _counter("images_used", rule))
    op.add_column("key_versions", _counter("revision"))
    op.create_index("ix_key_versions_revision", "key_versions", ["revision"])


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("step", sa.String(32), nullable=False),
        sa.Column("arguments", sa.LargeBinary(), nullable=False),
        sa.Column("key_version_id", sa.Integer()),
        sa.Column("parent_id", sa.Integer()),
        sa.Column("created_by", sa.String(512), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("next_at_ms", sa.BigInteger()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("lease_holder", sa.String(64)),
        sa.Column("lease_until_ms", sa.BigInteger()),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        _foreign("jobs", "key_version_id", "key_versions.id"),
        _foreign("jobs", "parent_id", "jobs.id"),
        _check("jobs", "state_known", JOB_STATES),
        _check("jobs", "arguments_bounded", ARGUMENTS_BOUNDED),
        _check("jobs", "fence_not_negative", "fence >= 0"),
        _check("jobs", "attempts_not_negative", "attempts >= 0"),
        _check(
            "jobs",
            "lease_is_whole",
            "(lease_holder IS NULL) = (lease_until_ms IS NULL)",
        ),
    )


def _index_jobs() -> None:
    op.create_index(
        "uq_jobs_one_open",
        "jobs",
        ["subject"],
        unique=True,
        sqlite_where=OPEN_JOBS,
        postgresql_where=OPEN_JOBS,
    )
    op.create_index("ix_jobs_due", "jobs", ["state", "next_at_ms"])
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"])
    op.create_index("ix_jobs_key_version_id", "jobs", ["key_version_id"])


def _create_approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("arguments", sa.LargeBinary(), nullable=False),
        sa.Column("requested_by", sa.String(512), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
        _foreign("approvals", "job_id", "jobs.id"),
        _check("approvals", "state_known", APPROVAL_STATES),
        _check("approvals", "arguments_bounded", ARGUMENTS_BOUNDED),
        _check("approvals", "expires_later", "expires_at_ms > created_at_ms"),
    )


def _create_approval_votes() -> None:
    op.create_table(
        "approval_votes",
        sa.Column("approval_id", sa.Integer(), nullable=False),
        sa.Column("operator", sa.String(512), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "approval_id", "operator", name=op.f("pk_approval_votes")
        ),
        _foreign("approval_votes", "approval_id", "approvals.id"),
    )


def _create_audit_event_ids() -> None:
    op.create_table(
        "audit_event_ids",
        sa.Column("actor", sa.String(512), nullable=False),
        sa.Column("event_id", sa.String(128), nullable=False),
        sa.Column("index", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("actor", "event_id", name=op.f("pk_audit_event_ids")),
        _foreign("audit_event_ids", "index", "audit_leaves.index"),
    )


def _counter(name: str, *rules: sa.CheckConstraint) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), *rules, nullable=False, server_default="0")


def _foreign(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}")
    return sa.ForeignKeyConstraint([column], [target], name=name)


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))
