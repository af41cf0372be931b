"""What can go wrong in the key holder, beside `core.errors`.

InvalidInput
├── KeyFormError             a name, owner, model or block size cannot be right
├── CorruptFileError
│   ├── CorruptRecordError       a row of the database is not what was written
│   │   └── KekUnlistedError         it names a key that the list of keys does not
│   └── KekListError             the list of key-encryption keys cannot be read
└── ConfigurationError
    ├── KekUrlError              not a URL of a key-encryption key
    ├── KekMissingError          there is no key where the URL says
    ├── KekPrivacyError          others may read or replace its file
    ├── KekFormatError           it is not 32 bytes
    └── KekMismatchError         another key is there than the one in use
Conflict
├── KeyIdentityError         a key version of this name exists, for something else
├── EmbeddingChangedError    this model version has another embedding
├── NoRecoveryKeyError       nothing is pinned to export to
├── RewrapOvertakenError     another rewrap runs to another key
└── KeyRefusedError
    └── KeyDestroyedError        the key version was destroyed
Unavailable
├── KekProgramError          the program that gives the key failed
└── DerivationsBusyError     as many derivations run and wait as may
"""

from core.errors import (
    ConfigurationError,
    Conflict,
    CorruptFileError,
    InvalidInput,
    KeyRefusedError,
    Unavailable,
)


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


class NoRecoveryKeyError(Conflict):
    """A key can be exported only to the recovery key, and none is pinned."""

    hint = "pin one in the key holder's settings.json: recovery_key, in hex"


class RewrapOvertakenError(Conflict):
    """Another rewrap has put another key-encryption key into use meanwhile."""

    hint = "let one rewrap end before the next; then run it again"


class CorruptRecordError(CorruptFileError):
    """A row of the key holder's database was changed, moved or cut short."""

    hint = "restore key-holder.db from a backup; the row was changed"


class KekUnlistedError(CorruptRecordError):
    """A record is under a key-encryption key that `keks.json` does not list."""

    hint = "restore keks.json, or key-holder.db if somebody changed it, from a backup"


class KekListError(CorruptFileError):
    """The list of key-encryption keys is not what was written."""

    hint = "restore keks.json from a backup"


class KekUrlError(ConfigurationError):
    """It does not say where a key-encryption key is."""

    hint = "use file:PATH, env:NAME or exec:/ABSOLUTE/PATH ARGUMENT ..."


class KekMissingError(ConfigurationError):
    """There is no key-encryption key where its URL says."""

    hint = "restore the key-encryption key where it was, from its own backup"


class KekPrivacyError(ConfigurationError):
    """Others may read or replace the key-encryption key's file."""

    hint = "chmod 600 the file, and chown it to the user who runs the key holder"


class KekFormatError(ConfigurationError):
    """What was found is no key-encryption key."""

    hint = (
        "file: 32 bytes; env: 64 hex digits or base64 of 32 bytes; exec: 32 bytes or"
        " 64 hex digits on stdout"
    )


class KekMismatchError(ConfigurationError):
    """Another key-encryption key was found than the one that records are under."""

    hint = "restore the former key; to change it, use `keymixer keys rewrap --to URL`"


class KekProgramError(Unavailable):
    """The program that gives the key-encryption key failed or took too long."""

    hint = "run the program as the key holder's user; it must end well within 10 s"


class DerivationsBusyError(Unavailable):
    """As many keys are being derived, and wait for it, as the key holder allows."""

    hint = "try again; the key holder computes as many models as it may"
