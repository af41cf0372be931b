"""Keys and plain embeddings at rest: one encrypted row for each version."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import NoReturn, TypeAlias

from sqlalchemy.orm import Session

from core.database import Database
from core.errors import NotFound
from core.keys import commitment
from core.orthogonal import SEED_BYTES
from core.statements import DestructionReceipt
from parties.key_holder.at_rest import (
    Entropy,
    erase,
    open_record,
    seal_record,
)
from parties.key_holder.errors import (
    CorruptRecordError,
    EmbeddingChangedError,
    KeyIdentityError,
)
from parties.key_holder.identities import (
    EmbeddingIdentity,
    KeyIdentity,
    require_name,
)
from parties.key_holder.keychain import Keychain
from parties.key_holder.rows import (
    bound_to,
    commitment_of,
    embedding_row,
    key_identity,
    key_row,
    record_of,
)
from parties.key_holder.tables import EmbeddingRow, KeyVersionRow

BLINDING_BYTES = 32
COVERS = (
    "the key holder's database: the wrapped data key and the sealed seed and blinding"
    " value were removed, overwritten where the database can, and its log emptied"
)
EXCLUDES = (
    "the owner's own copy; exports to the recovery key; backups and snapshots taken"
    " before; what a disk or file system keeps of overwritten blocks"
)

# Signs a receipt of destruction.
Pen: TypeAlias = Callable[[bytes], bytes]
Clock: TypeAlias = Callable[[], int]


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt of destruction and the key holder's signature over it."""

    receipt: bytes
    signature: bytes


class Vault:
    """The key holder's store. It refuses to be printed, pickled or copied."""

    def __init__(
        self,
        database: Database,
        keychain: Keychain,
        entropy: Entropy,
        clock: Clock = now_ms,
    ) -> None:
        self._database = database
        self._keychain = keychain
        self._entropy = entropy
        self._clock = clock

    def __repr__(self) -> str:
        return "Vault()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a vault is neither pickled nor copied")

    def create_key(self, identity: KeyIdentity) -> bytes:
        """Draw seed and blinding once; return the commitment (32 bytes) every time.

        Raises:
            KeyDestroyedError: the version was destroyed, drawn or not.
            KeyIdentityError: it is another owner's, model's or block size's.
        """
        self._load_key_in_use()
        with self._database.transaction() as session:
            row = session.get(KeyVersionRow, (identity.key_id, identity.version))
            if row is None:
                row = self._draw(session, identity)
                session.add(row)
        if identity != key_identity(row):
            raise KeyIdentityError("a key version of this name exists")
        return commitment_of(row)

    def identity(self, key_id: str, version: int) -> KeyIdentity:
        """The public facts of a key version. Raises `NotFound`, `KeyDestroyedError`."""
        with self._database.reading() as session:
            return key_identity(_find(session, key_id, version))

    @contextmanager
    def open_seed(self, key_id: str, version: int) -> Iterator[bytearray]:
        """Lend the 32-byte seed for the block; best-effort erased afterwards."""
        secret = self._secret(key_id, version)
        seed = secret[:SEED_BYTES]
        erase(secret)
        try:
            yield seed
        finally:
            erase(seed)

    def destroy_key(self, key_id: str, version: int, pen: Pen) -> SignedReceipt | None:
        """Make the seed unrecoverable from here; the version is never used again.

        Destroying again gives the same receipt. A version that never was is refused
        from now on too; there is nothing to give a receipt for.

        Raises:
            DatabaseBusyError: the seed is gone, but somebody who reads the database
                keeps its log from being emptied: destroy it again.
        """
        require_name(key_id, version)
        with self._database.transaction() as session:
            row = session.get(KeyVersionRow, (key_id, version))
            if row is None:
                row = KeyVersionRow(key_id=key_id, version=version)
                row.destroyed_at_ms = self._clock()
                session.add(row)
            elif row.destroyed_at_ms is None:
                _shred(row, self._clock(), pen)
        self._database.empty_log()
        if row.receipt is None or row.receipt_signature is None:
            return None
        return SignedReceipt(row.receipt, row.receipt_signature)

    def store_embedding(self, model: str, version: int, content: bytes) -> None:
        """Keep a release's plain `embedding.safetensors`; twice the same is fine."""
        identity = EmbeddingIdentity(model, version, sha256(content).digest())
        self._load_key_in_use()
        with self._database.transaction() as session:
            row = session.get(EmbeddingRow, (model, version))
            if row is None:
                kek, bound = self._keychain.in_use(session), identity.to_bytes()
                record = seal_record(kek, bound, content, self._entropy)
                row = embedding_row(identity, record, self._clock())
                session.add(row)
        if row.digest != identity.digest:
            raise EmbeddingChangedError("another embedding is stored")

    @contextmanager
    def open_embedding(self, model: str, version: int) -> Iterator[bytearray]:
        """Lend the plain safetensors file; best-effort erased afterwards."""
        with self._database.reading() as session:
            row = session.get(EmbeddingRow, (model, version))
            if row is None:
                raise NotFound("no such embedding")
        kek = self._keychain.wrapping(row.kek_id)
        content = open_record(kek, bound_to(row), record_of(row))
        try:
            yield content
        finally:
            erase(content)

    def _load_key_in_use(self) -> None:
        """Load it while nobody waits for our transaction: a program may take long."""
        with self._database.reading() as session:
            self._keychain.in_use(session)

    def _draw(self, session: Session, identity: KeyIdentity) -> KeyVersionRow:
        seed = bytearray(self._entropy(SEED_BYTES))
        blinding = bytearray(self._entropy(BLINDING_BYTES))
        secret = seed + blinding
        try:
            committed = commitment(seed, bytes(blinding), generator=identity.generator)
            record = seal_record(
                self._keychain.in_use(session),
                identity.bound_to(committed),
                secret,
                self._entropy,
            )
        finally:
            for each in (seed, blinding, secret):
                erase(each)
        return key_row(identity, committed, record, self._clock())

    def _secret(self, key_id: str, version: int) -> bytearray:
        with self._database.reading() as session:
            row = _find(session, key_id, version)
            record = record_of(row)
        kek = self._keychain.wrapping(row.kek_id)
        secret = open_record(kek, bound_to(row), record)
        if len(secret) != SEED_BYTES + BLINDING_BYTES:
            erase(secret)
            raise CorruptRecordError("a sealed key has the wrong length")
        return secret


def _find(session: Session, key_id: str, version: int) -> KeyVersionRow:
    require_name(key_id, version)
    row = session.get(KeyVersionRow, (key_id, version))
    if row is None:
        raise NotFound("no such key version")
    return row


def _shred(row: KeyVersionRow, at_ms: int, pen: Pen) -> None:
    """Take the seed out of a row; what stays is what it was, and the receipt."""
    receipt = DestructionReceipt(
        key_id=row.key_id,
        key_version=row.version,
        commitment=commitment_of(row).hex(),
        destroyed_at_ms=at_ms,
        covers=COVERS,
        excludes=EXCLUDES,
    ).to_bytes()
    row.kek_id = row.wrapped = row.sealed = None
    row.destroyed_at_ms = at_ms
    row.receipt, row.receipt_signature = receipt, pen(receipt)
