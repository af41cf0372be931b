"""What whoever controls the key holder's folder holds of a model: all of it.

For the attacks of `keymixer leakage` alone, which measure what a leak is worth. What is
lent here in plain stays in memory, and is never sent or written.
"""

from pathlib import Path

import numpy as np
from sqlalchemy import select

from core.leakage.held import Embedding, Held, KeyName
from core.manifest import Manifest
from core.transform import flatten_embedding
from core.wire import load_tensors
from parties.key_holder.identities import KeyIdentity
from parties.key_holder.issuing import open_key
from parties.key_holder.opening import Store, open_store
from parties.key_holder.rows import key_identity
from parties.key_holder.settings import Settings
from parties.key_holder.tables import EmbeddingRow, KeyVersionRow
from parties.key_holder.vault import Vault


def secrets_held(folder: Path, manifest: Manifest) -> Held:
    """Open every key of a model that was not destroyed, and the plain embedding.

    Raises:
        ConfigurationError: the key-encryption key cannot be had.
        CorruptRecordError: a record was changed.
    """
    settings = Settings.read(folder)
    with open_store(folder, settings.database) as store:
        vault = store.unlocked(settings.kek)
        keys = {
            KeyName(it.owner, it.key_id, it.version): open_key(vault, it).matrix
            for it in _identities(store, manifest)
        }
        return Held(_embedding(store, vault, manifest), keys)


def _identities(store: Store, manifest: Manifest) -> list[KeyIdentity]:
    wanted = (
        select(KeyVersionRow)
        .where(KeyVersionRow.destroyed_at_ms.is_(None))
        .where(KeyVersionRow.model == manifest.name)
        .order_by(KeyVersionRow.key_id, KeyVersionRow.version)
    )
    with store.database.reading() as session:
        return [key_identity(row) for row in session.scalars(wanted)]


def _embedding(store: Store, vault: Vault, manifest: Manifest) -> Embedding | None:
    digest = bytes.fromhex(manifest.embedding_digest)
    with store.database.reading() as session:
        row = session.scalars(
            select(EmbeddingRow).where(EmbeddingRow.digest == digest)
        ).first()
    if row is None:
        return None
    with vault.open_embedding(row.model, row.version) as content:
        (kernel,) = load_tensors(bytes(content)).values()
        return np.array(flatten_embedding(kernel))
