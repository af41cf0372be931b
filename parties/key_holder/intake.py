"""Take a provider's plain patch embedding into the vault, once it is proved its own."""

from collections.abc import Callable
from hashlib import sha256

from core.errors import CorruptFileError, SignatureError
from parties.key_holder.issuing import read_weight
from parties.key_holder.vault import Vault
from parties.registry import Registry, manifest_from


def take_embedding(
    vault: Vault,
    registry: Registry,
    *,
    provider: str,
    model: str,
    version: int,
    content: bytes,
    record: Callable[[str], None],
) -> None:
    """Store `embedding.safetensors` of a registered model version.

    `record` gets its digest before anything is stored, so what the log does not know is
    not kept. After a crash in between there is a record without effect; the provider,
    who got no answer, sends again.

    Raises:
        NotFound: for a model version the registry does not know.
        NotAllowedError: when it is another provider's.
        SignatureError: for a manifest that is not signed, or another file's digest.
        CorruptFileError: for a file that is not the embedding of this architecture.
    """
    manifest = manifest_from(registry, provider, model, version)
    digest = sha256(content).hexdigest()
    if digest != manifest.embedding_digest:
        raise SignatureError("expected the embedding that the manifest names")
    sizes = manifest.architecture
    patch = (sizes.patch_size, sizes.patch_size)
    expected = (sizes.hidden, sizes.channels, *patch)
    if (got := read_weight(content).shape) != expected:
        raise CorruptFileError(f"weight: expected {expected}, got {got}")
    record(digest)
    vault.store_embedding(model, version, content)
