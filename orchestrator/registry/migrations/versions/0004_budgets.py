"""Add budgets of images to grants, with what is used of them so far."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

# What was answered under any version of the owner's key for the model.
USED_SO_FAR: Final = """
    UPDATE grants SET images_used = (
        SELECT COALESCE(SUM(key_versions.images_used), 0)
        FROM key_versions JOIN keys ON keys.id = key_versions.key_pk
        WHERE keys.owner_party_id = grants.owner_party_id
        AND keys.model_id = grants.model_id
    )
"""
PERIODS: Final = "budget_period IN ('total', 'day', 'month')"


def upgrade() -> None:
    # Rules of the columns: SQLite adds none to a table that exists.
    op.add_column(
        "grants",
        sa.Column(
            "max_images",
            sa.BigInteger(),
            _check("max_images_not_negative", "max_images >= 0"),
        ),
    )
    op.add_column(
        "grants",
        sa.Column(
            "budget_period",
            sa.String(8),
            _check("budget_period_known", PERIODS),
            nullable=False,
            server_default="total",
        ),
    )
    op.add_column("grants", _counter("period_start_ms"))
    # Without a limit the rule is NULL, unless fewer than none were used.
    within = "images_used >= 0 AND images_used <= max_images"
    op.add_column("grants", _counter("images_used", _check("within_budget", within)))
    op.execute(USED_SO_FAR)


def downgrade() -> None:
    """Forget the budgets: for development only."""
    for column in ("images_used", "period_start_ms", "budget_period", "max_images"):
        op.drop_column("grants", column)


def _counter(name: str, *rules: sa.CheckConstraint) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), *rules, nullable=False, server_default="0")


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_grants_{name}"))
