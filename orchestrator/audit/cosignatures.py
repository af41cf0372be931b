"""What witnesses have cosigned: verified, and the newest of each kept."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from core.checkpoint import Checkpoint, open_checkpoint
from core.cosignature import open_cosigned, witness_name
from core.errors import SignatureError, TooLargeError
from orchestrator.audit import tree
from orchestrator.audit.writer import log_size, node_reader
from orchestrator.errors import NotInLog
from orchestrator.registry.models import LONGEST_COSIGNED, Cosignature
from orchestrator.registry.store import LARGEST_PAGE, Change, active_party


def keep_cosignature(change: Change, note: bytes) -> None:
    """Keep a checkpoint that the actor has cosigned, unless it cosigned a larger one.

    Raises:
        SignatureError: it is not this log's, or the actor's registered key did not
            cosign it.
        NotInLog: the log is shorter: it was put back to an older state.
        TooLargeError: the note is longer than names and two signatures.
    """
    if len(note) > LONGEST_COSIGNED:
        raise TooLargeError(f"{len(note)} bytes, at most {LONGEST_COSIGNED} fit")
    signed = open_checkpoint(note, change.log.public_key, change.log.origin)
    witness = active_party(change.session, change.actor)
    key = witness.signing_key or b""
    at_s = open_cosigned(note, key, witness_name(change.actor))
    _require_ours(change.session, signed)
    kept = change.session.get(Cosignature, witness.id)
    if kept is None:
        kept = Cosignature(party_id=witness.id)
        change.session.add(kept)
    elif kept.size > signed.size:
        return
    kept.size, kept.at_s, kept.note = signed.size, at_s, note


def cosignatures(session: Session, *, after: int = 0) -> Sequence[Cosignature]:
    """A page of each witness's newest, in the order of enrolment.

    Args:
        session: The snapshot to read.
        after: The party's id in the last row of the page before.
    """
    query = select(Cosignature).options(joinedload(Cosignature.party))
    query = query.where(Cosignature.party_id > after).order_by(Cosignature.party_id)
    return session.scalars(query.limit(LARGEST_PAGE)).all()


def _require_ours(session: Session, signed: Checkpoint) -> None:
    """Our key signed it; but do we still hold what it says?"""
    size = log_size(session)
    if signed.size > size:
        raise NotInLog(
            f"a witness has seen {signed.size} records, the log holds {size}"
        )
    if tree.root(signed.size, node_reader(session)) != signed.root:
        raise SignatureError("a witness has seen another history of this log")
