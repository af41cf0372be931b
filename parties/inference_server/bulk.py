"""A request in a stream, and what became of it: an answer, or a word why there is none.

An error ends a call, but must not end a stream: it travels as a message, and says no
more than the status of a call would.
"""

import logging

import grpc

from core.errors import KeymixerError
from core.rpc.errors import retry_after_s, status_of
from parties.inference_server.answering import Answering, Asked
from protos import bulk_pb2 as pb

log = logging.getLogger(__name__)


def outcome(answering: Answering, asked: Asked) -> pb.InferStreamResponse:
    """Answer a request in just the way a call of its own would be."""
    try:
        return pb.InferStreamResponse(answer=answering.answer(asked))
    except KeymixerError as error:
        said = {"method": asked.method, "kind": error.kind, "why": str(error)}
        log.warning("request refused", extra=said)
        return _no_answer(asked, error)
    except Exception:
        log.exception("request failed", extra={"method": asked.method})
        return pb.InferStreamResponse(error=_internal(asked))


def size(asked: Asked) -> int:
    """What a request holds, in bytes."""
    return asked.request.ByteSize()


def _no_answer(asked: Asked, error: KeymixerError) -> pb.InferStreamResponse:
    said = pb.InferError(
        request_id=asked.request.id,
        kind=error.kind,
        hint=error.hint,
        code=_number(status_of(error)),
        retry_after_s=retry_after_s(error),
    )
    return pb.InferStreamResponse(error=said)


def _internal(asked: Asked) -> pb.InferError:
    return pb.InferError(
        request_id=asked.request.id,
        kind="Internal",
        hint="see the log of the party asked",
        code=_number(grpc.StatusCode.INTERNAL),
    )


def _number(status: grpc.StatusCode) -> int:
    number: int = status.value[0]
    return number
