"""What can go wrong in the orchestrator, below the categories of `core.errors`.

InvalidInput
├── RecordMalformed          an audit record breaks its own layout
└── ConfigurationError
    └── SchemaUnknown        a newer keymixer wrote this database
Refused
└── SignatureError
    └── AuditBroken          the stored log is not the log that was written
NotFound
└── NotInLog                 the log does not hold that record or that size yet
Conflict
├── RegistryConflict         the registry's rules forbid the change
└── KeyRefusedError
    └── TransitionRefused    the key's state does not allow the action
Unavailable
├── AuditUnavailable
│   └── LogRewound           the log lost records that were signed
└── StorageError
    └── DatabaseCorrupt      the database file cannot be read
"""

from core.errors import (
    AuditUnavailable,
    ConfigurationError,
    Conflict,
    InvalidInput,
    KeyRefusedError,
    NotFound,
    SignatureError,
    StorageError,
)


class RecordMalformed(InvalidInput):
    """An audit record breaks its own layout: kind, subject, size or canonical form."""

    hint = "send short facts: at most 32 names with strings or finite numbers"


class SchemaUnknown(ConfigurationError):
    """The database is at a schema revision that this keymixer does not know."""

    hint = "run the newer keymixer that wrote this database"


class AuditBroken(SignatureError):
    """The stored log is not the log that was written.

    `part` is `record`, `node`, `checkpoint` or `side file`. `index` is the record, the
    first record under the node, or the size of the checkpoint; None: it names none.
    """

    hint = "stop the orchestrator, keep the database file, and find out who changed it"

    def __init__(self, part: str, index: int | None, difference: str) -> None:
        where = part if index is None else f"{part} {index}"
        super().__init__(f"{where}: {difference}")
        self.part = part
        self.index = index
        self.difference = difference


class NotInLog(NotFound):
    """The log does not hold that record, or has not that size yet."""

    hint = "ask for the newest checkpoint first"


class RegistryConflict(Conflict):
    """A unique, foreign-key or check constraint of the registry forbids the change."""

    hint = "it contradicts what is registered; list that first"


class TransitionRefused(KeyRefusedError):
    """The state of the key does not allow the action."""

    hint = "see `keymixer keys` for the state of the key"


class LogRewound(AuditUnavailable):
    """The log is shorter than, or contradicts, a checkpoint that was signed before."""

    hint = "an old backup or a changed log: restore the newest registry.db"


class DatabaseCorrupt(StorageError):
    """The database file cannot be read as a database."""

    hint = "restore registry.db and checkpoint.txt from their newest backup"
