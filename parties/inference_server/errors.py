"""What can go wrong in the inference server, beside `core.errors`."""

from core.errors import Exhausted, InvalidInput, Unavailable


class MissingParameterError(InvalidInput):
    """A request names no key, or names it with another type."""

    hint = "send the parameters key_id (string) and key_version (int64)"


class QuestionIdError(InvalidInput):
    """A request has a `question_id` that is none."""

    hint = "draw 32 bytes for each question and send them as 64 hex digits, or none"


class WrongTensorsError(InvalidInput):
    """A request has other tensors than the one the model reads."""

    hint = "send one input, `encrypted_blocks`, and ask for `logits` only"


class UploadError(InvalidInput):
    """The chunks of an upload do not belong together."""

    hint = "name the model version in the first chunk, and the same or none after it"


class WaitedTooLongError(Unavailable):
    """The deadline of a request ended before its turn came, or its caller went away."""

    hint = "ask again with a longer deadline; others were asking at the same time"


class NotHereYetError(Unavailable):
    """A model is live, and this replica lacks it and cannot fetch it now."""

    hint = "ask another replica, or this one again in a moment"


class QueueFullError(Exhausted):
    """As many requests wait as may, of all owners or of this one."""

    hint = "ask again after the pause that the server names, or with fewer at a time"


class DeadlineTooShortError(Exhausted):
    """Computing would begin too late for the deadline, so it does not begin."""

    hint = "ask with a longer deadline, or again when fewer others ask"


class TooFastError(Exhausted):
    """An owner asks for more images a second than its policy allows."""

    hint = "ask again after the pause that the server names; the operator sets the rate"
