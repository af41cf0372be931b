"""What can go wrong in the orchestrator, below the categories of `core.errors`.

InvalidInput
└── RecordMalformed          an audit record breaks its own layout
Refused
├── NotIssuable              a release that must not be issued
│   ├── PublicEmbeddingRefused   a key for a public embedding would hide nothing
│   ├── LeakageRefused           its leakage card breaks a rule of the federation
│   └── FreshReleaseNeeded       its embedding has been exposed for too long
└── SignatureError
    └── AuditBroken          the stored log is not the log that was written
NotFound
├── NotInLog                 the log does not hold that record or that size yet
└── NothingToErase           nothing that was typed was ever kept with that record
Conflict
├── BudgetTooLow             more images are used than the new budget allows
├── BudgetMoved              the budget is not the one that was to be replaced
├── EventReused              a name was given to two different events
├── OtherLogExported         a folder holds the tiles of another log or history
├── TwoOperatorsNeeded       another operator must agree to what is asked for
└── KeyRefusedError
    └── TransitionRefused    the key's state does not allow the action
Unavailable
├── ExportInterrupted        the key holder did not give what it was asked to export
└── AuditUnavailable
    └── LogRewound           the log lost records that were signed
"""

from core.errors import (
    AuditUnavailable,
    Conflict,
    InvalidInput,
    KeyRefusedError,
    NotFound,
    Refused,
    SignatureError,
    Unavailable,
)


class RecordMalformed(InvalidInput):
    """An audit record breaks its own layout: kind, subject, size or canonical form."""

    hint = "send short facts: at most 32 names with strings or finite numbers"


class NotIssuable(Refused):
    """A model version is not issued; `model` and `version` say which, `because` why."""

    hint = "see `keymixer models show` and the federation's policies"

    def __init__(self, model: str, version: int, because: str) -> None:
        super().__init__(f"{model} version {version}: {because}")
        self.model = model
        self.version = version
        self.because = because


class LeakageRefused(NotIssuable):
    """The leakage card of a model version breaks a rule: it is not issued."""

    hint = (
        "`keymixer keys show` has the card, and policies.leakage in federation.yaml "
        "the rules; measure a release before it is registered, or train another one "
        "(docs/cards.md)"
    )


class FreshReleaseNeeded(NotIssuable):
    """A server has seen so much of this embedding that it is issued no more."""

    hint = (
        "a rotation does not set a server back: train the model again from a fresh "
        "secret start, make that version the champion, and rotate the keys "
        "(docs/cards.md)"
    )


class PublicEmbeddingRefused(NotIssuable):
    """The plain embedding of a model version is public: it is not issued.

    `model` and `version` say which.
    """

    hint = (
        "from a public embedding W and the issued W A^T anybody computes the key A by "
        "one least-squares solve, so it would hide no picture from the server: train "
        "from a fresh secret start, or say policies.allow_public_embeddings if that is "
        "what you want (docs/import.md)"
    )

    def __init__(self, model: str, version: int) -> None:
        super().__init__(model, version, "its embedding is public")

    def __str__(self) -> str:
        return f"the embedding of {self.model} version {self.version} is public"


class AuditBroken(SignatureError):
    """The stored log is not the log that was written.

    `part` is `record`, `note`, `node`, `tile`, `checkpoint`, `side file` or `registry`.
    `index` is the record, the first record under the node or tile, or the checkpoint's
    size; None: it names none.
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


class NothingToErase(NotFound):
    """Nothing that was typed was ever kept with that record."""

    hint = "see `keymixer audit list`; what older records say themselves stays in them"


class BudgetTooLow(Conflict):
    """More images are used already than the new budget would allow."""

    hint = "see `keymixer budgets`; `keymixer keys suspend` refuses an owner at once"


class BudgetMoved(Conflict):
    """The budget is no longer the one that was to be replaced."""

    hint = "see `keymixer budgets` for what it is now, and set it again"


class EventReused(Conflict):
    """A reporter gave one name to two events that are not the same."""

    hint = "send an event again as it was, and give another event another event_id"


class OtherLogExported(Conflict):
    """A folder holds the exported tiles of another log, or of another history."""

    hint = "export into an empty folder; if it should be this log, verify both"


class TwoOperatorsNeeded(Conflict):
    """The policy wants another operator to agree, which is not asked for this way."""

    hint = "`keymixer keys restore` asks another operator to approve it"


class ExportInterrupted(Unavailable):
    """The export is recorded, and its approval used up, but nothing was given."""

    hint = "ask for the export again; where two operators must agree, they must anew"


class TransitionRefused(KeyRefusedError):
    """The state of the key does not allow the action."""

    hint = "see `keymixer keys` for the state of the key"


class LogRewound(AuditUnavailable):
    """The log is shorter than, or contradicts, a checkpoint that was signed before."""

    hint = "an old backup or a changed log: restore the newest registry.db"
