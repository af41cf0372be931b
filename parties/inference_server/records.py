"""No audit, no answer: an answer is released by the log's verdict, or not at all."""

import hmac
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from core.errors import (
    AuditUnavailable,
    BudgetSpent,
    KeyMismatchError,
    KeymixerError,
    KeyRefusedError,
    NotAllowedError,
    NotFound,
    NotGrantedError,
    QuestionReused,
)
from parties.inference_server.store import IssuedName
from protos import audit_pb2 as pb

NONCE_BYTES: Final = 32
_NONCE: Final = b"keymixer answer nonce v1"
_NAME: Final = b"keymixer question name v1"

REFUSALS: Final[Mapping[str, type[KeymixerError]]] = MappingProxyType(
    {
        error.__name__.removesuffix("Error"): error
        for error in (
            KeyRefusedError,
            NotGrantedError,
            BudgetSpent,
            NotAllowedError,
            KeyMismatchError,
            NotFound,
            QuestionReused,
        )
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One computed answer that waits to be released.

    `request` is the bytes of the encrypted blocks as they were sent, in any datatype;
    `result` is raw little-endian float32: logits of `shape` [images, classes].
    """

    request_id: str
    owner: str
    name: IssuedName
    shape: tuple[int, ...]
    request: bytes = field(repr=False)
    result: bytes = field(repr=False)
    compute_ms: float
    # When the request arrived, on the clock of `time.perf_counter`.
    arrived_s: float
    # How many images were computed at once.
    batch: int
    # How long it waited for that, in seconds.
    queue_s: float = 0.0
    # What its owner drew for the question, to ask it again; empty: it will not.
    question_id: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where the log holds the record, and the nonce its two digests are keyed with."""

    index: int
    nonce: bytes


class Awaited(Protocol):
    """A record that was handed in."""

    def verdict(self) -> pb.InferenceVerdict:
        """Return the log's verdict, or raise `AuditUnavailable`: there is none."""
        ...


class Verdicts(Protocol):
    """Whoever gives the log's verdict on a record; see `Releases`."""

    def ask(
        self,
        record: pb.InferenceRecord,
        told: Callable[[Awaited], None],
        *,
        timeout_s: float | None = None,
    ) -> None:
        """Hand a record in, and go on at once.

        Args:
            record: With a name (`event_id`), so that it may be sent again.
            told: Is given it back once there is a verdict or it is known that none
                comes; on any thread, perhaps before this returns.
            timeout_s: The time its caller has left; None: the log's patience.
        """
        ...


class Releasing:
    """An answer that is released by the log's verdict on its record.

    Args:
        answer: What waits.
        entropy: Gives so many bytes, for the nonce.
    """

    def __init__(self, answer: Answer, entropy: Callable[[int], bytes]) -> None:
        self.answer = answer
        self._nonce = _nonce(answer, entropy)
        self._awaited: Awaited | None = None

    def hand_in(
        self,
        releases: Verdicts,
        told: Callable[[], None],
        *,
        timeout_s: float | None = None,
    ) -> None:
        """Have it recorded, and go on at once.

        Args:
            releases: Hands records to the log, perhaps twice: each has a name.
            told: Is called once `receipt` need not be waited for.
            timeout_s: How long there is for it; None: no limit but the log's own.
        """

        def settled(awaited: Awaited) -> None:
            self._awaited = awaited
            told()

        record = _record(self.answer, self._nonce, _name(self.answer))
        releases.ask(record, settled, timeout_s=timeout_s)

    def receipt(self) -> Receipt:
        """Return only if the log's verdict is to release it.

        Raises:
            AuditUnavailable: when nothing was recorded for certain.
            KeymixerError: of the kind the verdict names; the refusal is a record too.
        """
        if self._awaited is None:
            raise AuditUnavailable("the log gave no verdict in time")
        verdict = self._awaited.verdict()
        if verdict.refusal:
            kind = REFUSALS.get(verdict.refusal, KeyRefusedError)
            raise kind(f"the registry's verdict is {verdict.refusal}")
        return Receipt(verdict.index, self._nonce)


def keyed_digest(nonce: bytes, content: bytes) -> bytes:
    """HMAC-SHA256: a bare digest of few possible inputs could be guessed."""
    return hmac.digest(nonce, content, "sha256")


def _nonce(answer: Answer, entropy: Callable[[int], bytes]) -> bytes:
    """The same one for a question that is asked again: so its digest is the same."""
    if not answer.question_id:
        return entropy(NONCE_BYTES)
    return hmac.digest(answer.question_id, _NONCE, "sha256")


def _name(answer: Answer) -> str:
    """What the record is called: by the question, for this owner, or by itself."""
    if not answer.question_id:
        return str(uuid.uuid4())
    named = _NAME + answer.owner.encode()
    return f"question/{hmac.digest(answer.question_id, named, 'sha256').hex()}"


def _record(answer: Answer, nonce: bytes, event_id: str) -> pb.InferenceRecord:
    return pb.InferenceRecord(
        request_id=answer.request_id,
        owner=answer.owner,
        key_id=answer.name.key_id,
        key_version=answer.name.key_version,
        model=answer.name.model,
        model_version=answer.name.model_version,
        images=answer.shape[0],
        request_digest=keyed_digest(nonce, answer.request),
        result_digest=keyed_digest(nonce, answer.result),
        compute_ms=answer.compute_ms,
        latency_ms=(time.perf_counter() - answer.arrived_s) * 1000,
        batch=answer.batch,
        event_id=event_id,
        names_question=bool(answer.question_id),
    )
