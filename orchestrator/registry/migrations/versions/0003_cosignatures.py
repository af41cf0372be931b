"""Add what witnesses have cosigned, and where the log says that a model went live."""

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("issued_models", sa.Column("live_index", sa.BigInteger()))
    op.create_table(
        "cosignatures",
        sa.Column("party_id", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("at_s", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("party_id", name=op.f("pk_cosignatures")),
        sa.ForeignKeyConstraint(
            ["party_id"], ["parties.id"], name=op.f("fk_cosignatures_party_id")
        ),
        sa.CheckConstraint("size >= 0", name=op.f("ck_cosignatures_size_not_negative")),
        sa.CheckConstraint(
            "length(note) <= 4096", name=op.f("ck_cosignatures_note_bounded")
        ),
    )


def downgrade() -> None:
    """Forget who witnessed what: for development only."""
    op.drop_table("cosignatures")
    op.drop_column("issued_models", "live_index")
