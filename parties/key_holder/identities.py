"""What a key version or an embedding is, in the open: authenticated, never secret."""

from dataclasses import asdict, dataclass

from core.architecture import MAX_DIMENSION
from core.canonical import canonical
from parties.key_holder.errors import KeyFormError
from parties.key_holder.tables import NAME_LENGTH, OWNER_LENGTH

# Canonical JSON knows no larger integer.
_LARGEST_VERSION = 2**53 - 1


@dataclass(frozen=True, slots=True)
class KeyIdentity:
    """What a key version is, without the key: public, and authenticated at rest."""

    key_id: str
    version: int
    owner: str
    model: str
    generator: str
    patch_size: int
    channels: int

    def __post_init__(self) -> None:
        require_name(self.key_id, self.version)
        require_name(self.model)
        require_name(self.owner, longest=OWNER_LENGTH)
        if min(self.patch_size, self.channels) < 1:
            raise KeyFormError("patch size and channels start at 1")
        if self.channels * self.patch_size**2 > MAX_DIMENSION:
            raise KeyFormError(f"blocks of more than {MAX_DIMENSION} numbers")

    def bound_to(self, commitment: bytes) -> bytes:
        """The bytes that a key at rest is encrypted for."""
        facts = asdict(self) | {"commitment": commitment.hex()}
        return canonical({"record": "key-version", **facts})


@dataclass(frozen=True, slots=True)
class EmbeddingIdentity:
    """Which plain embedding it is; `digest` is the SHA-256 of its file."""

    model: str
    version: int
    digest: bytes

    def __post_init__(self) -> None:
        require_name(self.model, self.version)

    def to_bytes(self) -> bytes:
        """Write the bytes that an embedding at rest is encrypted for."""
        facts = {"model": self.model, "version": self.version}
        return canonical({"record": "embedding", "digest": self.digest.hex(), **facts})


def require_name(name: str, version: int = 1, *, longest: int = NAME_LENGTH) -> None:
    """Return if a name and a version can be stored as they are, else raise."""
    if not 1 <= len(name) <= longest or not name.isprintable():
        raise KeyFormError(f"a name has 1 to {longest} printable characters")
    if not 1 <= version <= _LARGEST_VERSION:
        raise KeyFormError("versions start at 1")
