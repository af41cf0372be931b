"""Issue a model for a key: `W' = W A^T`, and the signed statement that binds it.

Nothing is kept: the transform is bit-identical each time, so preparing and sending
compute it twice and the issued embedding never touches the key holder's disk.
"""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy import ndarray

from core.errors import CorruptFileError, KeyMismatchError
from core.keys import BlockKey, derive_key
from core.statements import ISSUE, IssueStatement, sign
from core.transform import embedding_digest, transform_embedding
from core.wire import dump_tensors, load_tensors
from parties.key_holder.identities import KeyIdentity
from parties.key_holder.vault import Vault


@dataclass(frozen=True, slots=True)
class Issue:
    """One issued model: its statement, the signature over it, and the embedding."""

    statement: bytes
    signature: bytes
    embedding: bytes = field(repr=False)


def issue(
    vault: Vault,
    signing_key: Ed25519PrivateKey,
    *,
    key_id: str,
    key_version: int,
    model: str,
    model_version: int,
) -> Issue:
    """Transform a stored plain embedding for a stored key, and sign what was done.

    Raises:
        NotFound: for an unknown key version or embedding.
        KeyDestroyedError: for a destroyed key version.
        KeyMismatchError: when the key is for another model or block size.
    """
    identity = vault.identity(key_id, key_version)
    if identity.model != model:
        raise KeyMismatchError("expected the model that the key was drawn for")
    transformed = transform_embedding(
        _weight(vault, model, model_version), open_key(vault, identity)
    )
    statement = _state(identity, model_version, transformed).to_bytes()
    return Issue(
        statement=statement,
        signature=sign(signing_key, ISSUE, statement),
        embedding=dump_tensors({"weight": transformed}),
    )


def read_weight(content: bytes) -> ndarray:
    """The one tensor of an `embedding.safetensors`: float32 `[hidden, c, p, p]`."""
    tensors = load_tensors(content)
    if list(tensors) != ["weight"]:
        raise CorruptFileError("expected one tensor, `weight`")
    weight = tensors["weight"]
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:  # noqa: PLR2004
        raise CorruptFileError(f"weight: expected [h, c, p, p], got {weight.shape}")
    return weight


def open_key(vault: Vault, identity: KeyIdentity) -> BlockKey:
    """Derive a key from its seed, which is decrypted for as long as that takes."""
    with vault.open_seed(identity.key_id, identity.version) as seed:
        return derive_key(
            seed,
            key_id=identity.key_id,
            version=identity.version,
            patch_size=identity.patch_size,
            channels=identity.channels,
        )


def _weight(vault: Vault, model: str, version: int) -> ndarray:
    with vault.open_embedding(model, version) as content:
        return read_weight(bytes(content))


def _state(
    identity: KeyIdentity, model_version: int, transformed: ndarray
) -> IssueStatement:
    return IssueStatement(
        key_id=identity.key_id,
        key_version=identity.version,
        owner=identity.owner,
        model=identity.model,
        model_version=model_version,
        digest=embedding_digest(transformed).hex(),
        patch_size=identity.patch_size,
        channels=identity.channels,
        hidden=transformed.shape[0],
    )
