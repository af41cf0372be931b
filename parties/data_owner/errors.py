"""What can go wrong at a data owner.

NoKeyError              KeyRefusedError: there is no key that may be used now
UnknownModelError       NotFound: no key of the owner is for the model it names
KeyNotReadyError        Unavailable: a key did not become usable in time
IncompleteError         Unavailable: some images got no answer
UnexpectedAnswerError   Refused: an answer is not one to what was asked
DeliveryKeyChangedError SignatureError: keys would be signed by another key holder
LogKeyChangedError      SignatureError: the audit log is another one than it was
LogForkedError          Refused: the audit log shows another history than it did
LogRolledBackError      Refused: the audit log is shorter than it was
UnrecordedError         Refused: the audit log does not say what it should
WrongReceiptError       UnrecordedError: it says something else of an answer
"""

from core.errors import (
    KeyRefusedError,
    NotFound,
    Refused,
    SignatureError,
    Unavailable,
)


class NoKeyError(KeyRefusedError):
    """The owner has no key that may be used now."""

    hint = "ask the operator for a grant and a key; see `keymixer keys`"


class UnknownModelError(NotFound):
    """The owner named a model that none of its keys is for."""

    hint = "name one of the models there are keys for; see `keymixer keys`"


class KeyNotReadyError(Unavailable):
    """A key was not active, or no model was issued for it, in time."""

    hint = "see `keymixer keys` and `keymixer issued`, and the orchestrator's log"


class IncompleteError(Unavailable):
    """Some images got no answer."""

    hint = "see the failures by kind, and ask again"


class UnexpectedAnswerError(Refused):
    """An answer has another shape, id or model than the question."""

    hint = "the inference server or its model is not what the registry says"


class DeliveryKeyChangedError(SignatureError):
    """The registry names another signing key of the key holder than it once did."""

    hint = (
        "ask the key holder, not the registry, whether its key has changed; "
        "if so, delete key-holder.pub in your folder"
    )


class LogKeyChangedError(SignatureError):
    """The audit log has another name or key than this owner pinned."""

    hint = (
        "ask the operator by another channel whether the log was replaced; "
        "if so, keep witness.json as evidence, and take it out of your folder"
    )


class LogForkedError(Refused):
    """The audit log does not extend what this owner saw of it before."""

    hint = (
        "nothing is sent; show the operator and the other data owners both "
        "checkpoints, which are kept in `evidence` in your folder"
    )


class LogRolledBackError(Refused):
    """The audit log holds fewer records than this owner saw in it before."""

    hint = (
        "nothing is sent; the operator must restore the newest registry.db; both "
        "checkpoints are kept in `evidence` in your folder"
    )


class UnrecordedError(Refused):
    """The audit log does not contain a record that it should."""

    hint = "ask the operator to issue the model again: `keymixer keys rotate`"


class WrongReceiptError(UnrecordedError):
    """The log's record of an answer is not of what was sent and received."""

    hint = "keep the answer and its receipt, and show both to the operator"
