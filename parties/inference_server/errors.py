"""What can go wrong in the inference server, beside `core.errors`."""

from core.errors import InvalidInput, Unavailable


class MissingParameterError(InvalidInput):
    """A request names no key, or names it with another type."""

    hint = "send the parameters key_id (string) and key_version (int64)"


class WrongTensorsError(InvalidInput):
    """A request has other tensors than the one the model reads."""

    hint = "send one input, `encrypted_blocks`, and ask for `logits` only"


class UploadError(InvalidInput):
    """The chunks of an upload do not belong together."""

    hint = "name the model version in the first chunk, and the same or none after it"


class WaitedTooLongError(Unavailable):
    """The deadline of a request ended before its turn came, or its caller went away."""

    hint = "ask again with a longer deadline; others were asking at the same time"
