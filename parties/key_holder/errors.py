"""What can go wrong in the key holder, beside `core.errors`."""

from core.errors import ConfigurationError, Conflict, InvalidInput, KeyRefusedError


class KeyDestroyedError(KeyRefusedError):
    """The key version was destroyed; its number is never used again."""

    hint = "ask the operator for a new key version"


class KeyFormError(InvalidInput):
    """A key version's name, owner, model or block size cannot be right."""

    hint = "name the key by its id and a version from 1"


class KeyIdentityError(Conflict):
    """A key version of this name exists with another owner, model or block size."""

    hint = "ask for the next version of the key"


class EmbeddingChangedError(Conflict):
    """This model version has an embedding already, and it is another one."""

    hint = "register a new model version; versions never change"


class KeyEncryptionKeyError(ConfigurationError):
    """The key-encryption key is missing, malformed or readable by others."""

    hint = "restore `kek.key` from its backup, with mode 0600"
