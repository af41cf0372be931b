"""Decide on answers that wait to be released, and record each decision.

All in one transaction, in which nobody else writes: so what was read for one answer
holds for the next one too, and each is asked about, and counted, once.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, select, update

from core.canonical import canonical
from core.database.fixed import Fixed
from core.errors import InvalidInput, KeymixerError, QuestionReused, Unavailable
from core.rpc.identity import SpiffeId
from orchestrator.audit.admission import Claim, Standings, require_admitted
from orchestrator.audit.records import Entry, Fact
from orchestrator.audit.releases import release_digest
from orchestrator.audit.repeats import Names
from orchestrator.errors import EventReused
from orchestrator.registry.budgets import Allowance, drawn, write_allowances
from orchestrator.registry.models import Key, KeyVersion
from orchestrator.registry.store import Change

RELEASED: Final = "inference"
_REFUSED: Final = "inference.refused"
_DECISIONS: Final = frozenset({RELEASED, _REFUSED})

_COUNT: Final = Fixed(
    update(KeyVersion)
    .where(
        KeyVersion.version == bindparam("of_version"),
        KeyVersion.key_pk
        == select(Key.id).where(Key.key_id == bindparam("of_key")).scalar_subquery(),
    )
    .values(images_used=KeyVersion.images_used + bindparam("images"))
)
_DIGEST_BYTES: Final = 32
# What of a record is the answer's; the rest is the question's.
_OF_THE_ANSWER: Final = frozenset(
    {"result_digest", "compute_ms", "latency_ms", "batch", "refusal", "status"}
)
_LONGEST_ID: Final = 128


@dataclass(frozen=True, slots=True)
class Inference:
    """One answer that waits to be released; its digests are keyed, 32 bytes each."""

    request_id: str
    claim: Claim
    images: int
    request_digest: bytes
    result_digest: bytes
    compute_ms: float
    # From the request's arrival at the server until the record was handed in.
    latency_ms: float = 0.0
    # How many images the engine computed at once.
    batch: int = 0
    event_id: str = ""
    # Whether that is the name of the question, which may be answered again.
    names_question: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The record's index, and the kind of refusal; empty: release the answer."""

    index: int
    refusal: str


def record_inferences(change: Change, inferences: Sequence[Inference]) -> list[Verdict]:
    """Decide on answers and record the decisions, in the same transaction.

    Raises:
        InvalidInput: a record is malformed; nothing is decided.
        EventReused: the name of one is that of another record.
    """
    for each in inferences:
        _check(each)
    names = Names(change, [each.event_id for each in inferences])
    desk = _Desk(change, {each.claim for each in inferences})
    verdicts = [_record(change, each, names, desk) for each in inferences]
    desk.write()
    return verdicts


class _Desk:
    """What this transaction has looked up, and what it is to count, so far."""

    def __init__(self, change: Change, claims: Collection[Claim]) -> None:
        self._change = change
        self._standings = Standings(change.session, claims)
        # The grant under which a claim is answered, or why it is not.
        self._claims: dict[Claim, int | KeymixerError] = {}
        self._allowances: dict[int, Allowance] = {}
        self._digests: dict[tuple[str, int], str] = {}
        # Images by key and version.
        self._images: Counter[tuple[str, int]] = Counter()

    def refusal(self, inference: Inference, *, counted: bool = False) -> str:
        """Why an answer is not released; if it is, its images are counted.

        Those of a question that was answered before are counted already.
        """
        try:
            grant = self._admitted(inference.claim)
            if counted:
                return ""
            allowance = self._allowances[grant]
            now_ms = self._change.now_ms
            self._allowances[grant] = drawn(allowance, inference.images, now_ms)
        except Unavailable:
            raise
        except KeymixerError as error:
            return error.kind
        claim = inference.claim
        self._images[claim.key_id, claim.key_version] += inference.images
        return ""

    def digest(self, claim: Claim) -> str:
        """The digest of the release that is claimed, as `release_digest` gives it."""
        name = (claim.model, claim.model_version)
        if name not in self._digests:
            self._digests[name] = release_digest(self._change.session, *name)
        return self._digests[name]

    def write(self) -> None:
        """Write what was counted: on the grants, and on the key versions."""
        write_allowances(self._change, self._allowances.values())
        counted = [
            {"of_key": key_id, "of_version": version, "images": images}
            for (key_id, version), images in self._images.items()
        ]
        if counted:
            _COUNT.run(self._change.session, counted)

    def _admitted(self, claim: Claim) -> int:
        if claim not in self._claims:
            self._claims[claim] = self._look_up(claim)
        found = self._claims[claim]
        if isinstance(found, KeymixerError):
            raise found
        return found

    def _look_up(self, claim: Claim) -> int | KeymixerError:
        try:
            allowance = require_admitted(self._standings, claim, self._change.now_ms)
        except Unavailable:
            raise
        except KeymixerError as error:
            return error
        # Another claim may have drawn on the same grant already.
        self._allowances.setdefault(allowance.grant, allowance)
        return allowance.grant


def _record(change: Change, inference: Inference, names: Names, desk: _Desk) -> Verdict:
    facts = _facts(change, inference, desk.digest(inference.claim))
    known = names.recorded(inference.event_id)
    if known is not None and inference.names_question:
        return _answered_again(change, inference, facts, known, names=names, desk=desk)
    if known is not None:
        return _verdict_again(known, facts)
    index, refusal = _append(change, facts, desk.refusal(inference))
    names.remember(inference.event_id, index)
    return Verdict(index, refusal)


def _answered_again(
    change: Change,
    inference: Inference,
    facts: dict[str, Fact],
    known: Entry,
    *,
    names: Names,
    desk: _Desk,
) -> Verdict:
    """Decide on an answer to a question of which there is a record.

    Nobody knows whether the first answer arrived, so the second one is not counted; but
    it is another answer, and has a record of its own, under a name of its own.
    """
    if known.kind not in _DECISIONS or not _same_question(known, facts):
        return Verdict(*_append(change, facts, QuestionReused.__name__))
    if known.kind == _REFUSED or _same_answer(known, facts):
        return _verdict(known)
    facts["repeats"] = known.index
    name = hashlib.sha256(inference.event_id.encode() + canonical(facts)).hexdigest()
    if (mine := names.look_up(name)) is not None:
        return _verdict_again(mine, facts)
    index, refusal = _append(change, facts, desk.refusal(inference, counted=True))
    names.remember(name, index)
    return Verdict(index, refusal)


def _append(change: Change, facts: Mapping[str, Fact], refusal: str) -> tuple[int, str]:
    """Append the record of a decision; returns its index, and the refusal."""
    said = {**facts, "refusal": refusal} if refusal else dict(facts)
    said["status"] = "refused" if refusal else "released"
    kind = _REFUSED if refusal else RELEASED
    return change.record(kind, said, [str(facts["owner"])]), refusal


def _facts(change: Change, inference: Inference, digest: str) -> dict[str, Fact]:
    claim = inference.claim
    return {
        "owner": claim.owner,
        "organisation": SpiffeId.parse(claim.owner).organisation,
        "key_id": claim.key_id,
        "key_version": claim.key_version,
        "model": claim.model,
        "model_version": claim.model_version,
        "model_digest": digest,
        "images": inference.images,
        "request_id": inference.request_id,
        "request_digest": inference.request_digest.hex(),
        "result_digest": inference.result_digest.hex(),
        "compute_ms": inference.compute_ms,
        "latency_ms": inference.latency_ms,
        "batch": inference.batch,
        "server": change.actor,
    }


def _verdict_again(known: Entry, facts: Mapping[str, Fact]) -> Verdict:
    if known.kind not in _DECISIONS or not _same_answer(known, facts):
        raise EventReused("the event_id is that of another record")
    return _verdict(known)


def _verdict(known: Entry) -> Verdict:
    return Verdict(known.index, str(known.subject.get("refusal", "")))


def _same_answer(known: Entry, facts: Mapping[str, Fact]) -> bool:
    said = dict(known.subject)
    for verdict in ("refusal", "status"):
        said.pop(verdict, None)
    return said == facts


def _same_question(known: Entry, facts: Mapping[str, Fact]) -> bool:
    """Whether the same was asked: its digest is keyed with the same nonce."""
    said = {
        name: fact for name, fact in known.subject.items() if name not in _OF_THE_ANSWER
    }
    asked = {name: fact for name, fact in facts.items() if name not in _OF_THE_ANSWER}
    return said == asked


def _check(inference: Inference) -> None:
    digests = (inference.request_digest, inference.result_digest)
    if any(len(digest) != _DIGEST_BYTES for digest in digests):
        raise InvalidInput(f"digests: expected {_DIGEST_BYTES} bytes each")
    if inference.images < 1:
        raise InvalidInput("images: expected at least 1")
    if len(inference.request_id) > _LONGEST_ID:
        raise InvalidInput(f"request_id: at most {_LONGEST_ID} characters")
    SpiffeId.parse(inference.claim.owner)
