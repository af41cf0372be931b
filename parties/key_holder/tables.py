"""The key holder's tables: what is held, encrypted, and what was destroyed."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    LargeBinary,
    MetaData,
    String,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMES: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}
# Longer names are refused before they get here: `KeyIdentity`.
NAME_LENGTH: Final = 255
OWNER_LENGTH: Final = 512


class Base(DeclarativeBase):
    """Every table; times are milliseconds since the epoch. No column holds a secret."""

    metadata = MetaData(naming_convention=NAMES)


class KeyVersionRow(Base):
    """One key version: what it is in the open, its seed sealed.

    Destroyed, it keeps its row and loses its seed. Without an owner it is a version
    that was destroyed before it was drawn. Triggers keep what a row is from changing,
    a destroyed one from coming back, and every row from being deleted.
    """

    __tablename__ = "key_versions"
    __table_args__ = (
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("length(commitment) = 32", name="commitment_length"),
        CheckConstraint(
            "(destroyed_at_ms IS NULL) = (sealed IS NOT NULL) "
            "AND (destroyed_at_ms IS NULL) = (wrapped IS NOT NULL) "
            "AND (destroyed_at_ms IS NULL) = (kek_id IS NOT NULL)",
            name="sealed_until_destroyed",
        ),
        CheckConstraint(
            "destroyed_at_ms IS NOT NULL OR owner IS NOT NULL",
            name="drawn_for_an_owner",
        ),
        CheckConstraint(
            "(owner IS NULL) = (model IS NULL) "
            "AND (owner IS NULL) = (generator IS NULL) "
            "AND (owner IS NULL) = (patch_size IS NULL) "
            "AND (owner IS NULL) = (channels IS NULL) "
            "AND (owner IS NULL) = (commitment IS NULL) "
            "AND (owner IS NULL) = (created_at_ms IS NULL)",
            name="identity_is_whole",
        ),
        CheckConstraint(
            "(receipt IS NULL) = (destroyed_at_ms IS NULL OR owner IS NULL) "
            "AND (receipt IS NULL) = (receipt_signature IS NULL)",
            name="receipt_if_destroyed",
        ),
    )

    key_id: Mapped[str] = mapped_column(String(NAME_LENGTH), primary_key=True)
    version: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False
    )
    owner: Mapped[str | None] = mapped_column(String(OWNER_LENGTH))
    model: Mapped[str | None] = mapped_column(String(NAME_LENGTH))
    generator: Mapped[str | None] = mapped_column(String(64))
    patch_size: Mapped[int | None]
    channels: Mapped[int | None]
    commitment: Mapped[bytes | None] = mapped_column(LargeBinary)
    # Only the list in the key holder's folder says which key that is; see `keks`.
    kek_id: Mapped[str | None] = mapped_column(String(64), index=True)
    wrapped: Mapped[bytes | None] = mapped_column(LargeBinary)
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    destroyed_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    # Canonical JSON; see `core.statements.DestructionReceipt`.
    receipt: Mapped[bytes | None] = mapped_column(LargeBinary)
    receipt_signature: Mapped[bytes | None] = mapped_column(LargeBinary)


class EmbeddingRow(Base):
    """The plain patch embedding of one model version, sealed."""

    __tablename__ = "embeddings"
    __table_args__ = (
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("length(digest) = 32", name="digest_length"),
    )

    model: Mapped[str] = mapped_column(String(NAME_LENGTH), primary_key=True)
    version: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False
    )
    # SHA-256 of the file, as the signed manifest names it.
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    kek_id: Mapped[str] = mapped_column(String(64), index=True)
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
