"""Between rows of the database and what they mean."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from parties.key_holder.at_rest import SealedRecord
from parties.key_holder.errors import (
    CorruptRecordError,
    KeyDestroyedError,
    KeyFormError,
)
from parties.key_holder.identities import EmbeddingIdentity, KeyIdentity
from parties.key_holder.tables import EmbeddingRow, KeyVersionRow


def key_row(
    identity: KeyIdentity, commitment: bytes, record: SealedRecord, at_ms: int
) -> KeyVersionRow:
    """The row of a key version that was just drawn."""
    return KeyVersionRow(
        key_id=identity.key_id,
        version=identity.version,
        owner=identity.owner,
        model=identity.model,
        generator=identity.generator,
        patch_size=identity.patch_size,
        channels=identity.channels,
        commitment=commitment,
        kek_id=record.kek_id,
        wrapped=record.wrapped,
        sealed=record.sealed,
        created_at_ms=at_ms,
    )


def embedding_row(
    identity: EmbeddingIdentity, record: SealedRecord, at_ms: int
) -> EmbeddingRow:
    """The row of an embedding that was just uploaded."""
    return EmbeddingRow(
        model=identity.model,
        version=identity.version,
        digest=identity.digest,
        kek_id=record.kek_id,
        wrapped=record.wrapped,
        sealed=record.sealed,
        created_at_ms=at_ms,
    )


def key_identity(row: KeyVersionRow) -> KeyIdentity:
    """What a key version says it is; only opening its seed proves it.

    Raises:
        KeyDestroyedError: nothing is left of it but its row.
    """
    if row.destroyed_at_ms is not None:
        raise KeyDestroyedError("this key version was destroyed")
    try:
        return KeyIdentity(
            row.key_id,
            row.version,
            row.owner or "",
            row.model or "",
            row.generator or "",
            row.patch_size or 0,
            row.channels or 0,
        )
    except KeyFormError as error:
        raise CorruptRecordError(f"a key version's row: {error}") from error


def commitment_of(row: KeyVersionRow) -> bytes:
    """A key version's public commitment, 32 bytes; empty if it never was drawn."""
    return row.commitment or b""


def record_of(row: KeyVersionRow | EmbeddingRow) -> SealedRecord:
    """The encrypted part of a row that is not destroyed."""
    if row.kek_id is None or row.wrapped is None or row.sealed is None:
        raise KeyDestroyedError("this key version was destroyed")
    return SealedRecord(row.kek_id, row.wrapped, row.sealed)


def bound_to(row: KeyVersionRow | EmbeddingRow) -> bytes:
    """What a row says it is, as the bytes that its content is encrypted for."""
    if isinstance(row, KeyVersionRow):
        return key_identity(row).bound_to(commitment_of(row))
    return EmbeddingIdentity(row.model, row.version, row.digest).to_bytes()


def kek_ids(session: Session) -> set[str]:
    """The names of the key-encryption keys that records say they are under."""
    keys, embeddings = select(KeyVersionRow.kek_id), select(EmbeddingRow.kek_id)
    return {name for name in session.scalars(keys.union(embeddings)) if name}
