"""What can go wrong, by whose move it is next.

KeymixerError
├── InvalidInput         the caller sent something that can never work
│   ├── ShapeError           a tensor has the wrong shape
│   ├── DtypeError           a tensor has the wrong type
│   ├── NonFiniteError       a tensor holds NaN or infinity
│   ├── TruncatedError       fewer (or more) bytes than the shape asks for
│   ├── NotAnImageError      a file is not an image we can read
│   ├── DataError            a dataset is missing, empty or malformed
│   ├── CorruptFileError     a safetensors, key or manifest file cannot be read
│   ├── SeedError            a seed or a blinding value is not 32 bytes
│   ├── TrainingDivergedError the loss is no longer a number
│   └── ConfigurationError   federation.yaml or a setting is wrong
│       └── SchemaUnknown        a newer keymixer wrote this database
├── Refused              the caller may not do this
│   ├── WrongFederationError a certificate of another federation
│   ├── NotAllowedError      the method is not for this role
│   └── SignatureError       a signature, digest or tag does not verify
├── NotFound             what the caller names does not exist
├── Conflict             it exists, but its state does not allow this
│   ├── ConstraintConflict   a rule of the database forbids the change
│   ├── KeyRefusedError      the key is not active (retired, revoked, suspended, ...)
│   ├── QuestionReused       another question was asked under the same question_id
│   ├── KeyMismatchError     key, model and block size do not belong together
│   └── NotGrantedError      the owner may not use this model
├── Exhausted            too large or too many; less, or later, may work
│   ├── TooLargeError        a message or tensor is over the limit
│   └── BudgetSpent          the owner's budget has no room for so many images
└── Unavailable          a peer, a disk or the log is away; trying again may work
    ├── AuditUnavailable     the record could not be made durable: no answer
    ├── PeerUnavailable      a party does not answer
    ├── DatabaseBusyError    others hold the database, or its server is away
    └── StorageError         the disk is full or not writable
        ├── DatabaseCorrupt      the database cannot be read
        └── DatabaseMoved        its file was removed or replaced while it was open

Each package draws its own errors below one of these, so that one table in
`core.rpc.errors` turns every error into a gRPC status.
"""


class KeymixerError(Exception):
    """The base of every error keymixer raises on purpose.

    The message is for our own log and for the local user. Over the wire goes only the
    class name (the kind) and `hint`, which is a constant and quotes no data.
    """

    hint: str = ""

    @property
    def kind(self) -> str:
        """The name callers see: the class name without the suffix `Error`."""
        return type(self).__name__.removesuffix("Error")


class InvalidInput(KeymixerError):
    """The caller sent something that can never work."""


class ShapeError(InvalidInput):
    """A tensor has the wrong shape."""

    hint = "resize the images as the model's manifest says"


class DtypeError(InvalidInput):
    """A tensor has the wrong type."""

    hint = "send float32, or another datatype that the model's metadata lists"


class NonFiniteError(InvalidInput):
    """A tensor holds NaN or infinity."""

    hint = "check the images for NaN and infinity"


class TruncatedError(InvalidInput):
    """A tensor has fewer or more bytes than its shape asks for."""

    hint = "send the tensor again; its bytes do not match its shape"


class NotAnImageError(InvalidInput):
    """A file is not an image we can read."""

    hint = "give PNG or JPEG files"


class DataError(InvalidInput):
    """A dataset is missing, empty or malformed."""

    hint = "see `keymixer simulate --help` for the forms of --data"


class CorruptFileError(InvalidInput):
    """A safetensors, key or manifest file cannot be read."""

    hint = "restore the file from its source"


class SeedError(InvalidInput):
    """A seed or a blinding value does not have its 32 bytes."""

    hint = "draw 32 bytes from the operating system, or fetch the key again"


class TrainingDivergedError(InvalidInput):
    """The training loss is no longer a finite number."""

    hint = "lower the learning rate and check the images and labels"


class ConfigurationError(InvalidInput):
    """A federation file or a setting is wrong."""

    hint = "correct what the message names"


class SchemaUnknown(ConfigurationError):
    """The database is at a schema revision that this keymixer does not know."""

    hint = "run the newer keymixer that wrote this database"


class Refused(KeymixerError):
    """The caller may not do this."""


class WrongFederationError(Refused):
    """The certificate belongs to another federation, or to nobody."""

    hint = "use a certificate that this federation's authority signed"


class NotAllowedError(Refused):
    """The method is not for the caller's role, or the thing is not the caller's."""

    hint = "ask with the identity of the party that may do this"


class SignatureError(Refused):
    """A signature, digest or tag does not verify."""

    hint = "fetch the file again from its source; it was changed on the way"


class NotFound(KeymixerError):
    """What the caller names does not exist."""

    hint = "list what there is with `keymixer models`, `keys`, `issued` or `parties`"


class Conflict(KeymixerError):
    """It exists, but its state does not allow this."""


class ConstraintConflict(Conflict):
    """A unique, foreign-key or check constraint of the database forbids the change."""

    hint = "it contradicts what is registered; list that first"


class KeyRefusedError(Conflict):
    """The key version may not be used: it is retired, revoked or not yet confirmed."""

    hint = "see `keymixer keys`; ask the operator for a new key"


class QuestionReused(Conflict):
    """A question was asked under the name of another one."""

    hint = "draw a new question_id for each question, and keep it only to ask again"


class KeyMismatchError(Conflict):
    """Key, model and block size do not belong together."""

    hint = "use the key that was issued for this model"


class NotGrantedError(Conflict):
    """The owner may not use this model."""

    hint = "ask the operator for a grant"


class Exhausted(KeymixerError):
    """Too large or too many; less, or later, may work.

    `retry_after_s` is the pause, in seconds, after which it may; None: nobody knows.
    Only what was not begun carries one: to try again is safe.
    """

    def __init__(self, message: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLargeError(Exhausted):
    """A message or a tensor is over the limit."""

    hint = "send less at once: fewer images a request, a shorter manifest"


class BudgetSpent(Exhausted):
    """The owner's budget for the model has no room for so many images."""

    hint = "fewer images may still fit; ask the operator, who sees `keymixer budgets`"


class Unavailable(KeymixerError):
    """A peer, a disk or the log is away; trying again may work."""


class AuditUnavailable(Unavailable):
    """The record could not be made durable, so there is no answer."""

    hint = "try again; if it goes on, look at the orchestrator's log and disk"


class PeerUnavailable(Unavailable):
    """A party does not answer."""

    hint = "see `keymixer status`; `keymixer up --resume RUN` starts a stopped run"


class DatabaseBusyError(Unavailable):
    """Others held the database for too long, or its server does not answer."""

    hint = "try again; if it goes on, look at the database and who holds it"


class StorageError(Unavailable):
    """The disk is full or not writable."""

    hint = "free space on the disk, or name a folder you can write to"


class DatabaseCorrupt(StorageError):
    """The database cannot be read as one of ours."""

    hint = "restore it, and the checkpoint.txt of a log, from the newest backup"


class DatabaseMoved(StorageError):
    """The database's file was removed or replaced while it was open."""

    hint = "put the file back, or stop the party and restore the newest backup"
