"""What witnesses cosigned is kept on every database, if it is of its own log."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update

from core.checkpoint import open_checkpoint, sign_checkpoint
from core.cosignature import cosign, witness_name
from core.errors import (
    ConstraintConflict,
    CorruptFileError,
    SignatureError,
    TooLargeError,
)
from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from orchestrator.audit import cosignatures as module
from orchestrator.audit.cosignatures import cosignatures, keep_cosignature
from orchestrator.audit.service import AuditService
from orchestrator.errors import NotInLog
from orchestrator.registry import store
from orchestrator.registry.models import LONGEST_COSIGNED, Cosignature
from protos import audit_pb2 as pb
from tests.fakes import fake_context
from tests.unit.orchestrator.ledger import (
    ALDER_ID,
    BIRCH_ID,
    OPERATOR_ID,
    Ledger,
    open_ledger,
)
from tests.unit.parties.stage import public

ALDER = str(ALDER_ID)
LOG_PEN = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
PENS = {
    ALDER_ID: Ed25519PrivateKey.from_private_bytes(b"a" * 32),
    BIRCH_ID: Ed25519PrivateKey.from_private_bytes(b"b" * 32),
}


@pytest.fixture
def ledger(url: str, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger whose owners have registered their keys."""
    with open_ledger(tmp_path, url) as ledger:
        for owner, pen in PENS.items():
            with ledger.change(owner) as change:
                store.register_public_keys(change, public(pen), b"")
        yield ledger


def cosigned(ledger: Ledger, owner: SpiffeId = ALDER_ID, at_s: int = 7) -> bytes:
    note = ledger.registry.log.checkpoint()
    return cosign(note, PENS[owner], witness_name(str(owner)), at_s)


def submit(ledger: Ledger, note: bytes, owner: SpiffeId = ALDER_ID) -> None:
    with ledger.change(owner) as change:
        keep_cosignature(change, note)


def kept(ledger: Ledger) -> list[tuple[str, int, int, bytes]]:
    with ledger.change() as change:
        return [
            (row.party.spiffe_id, row.size, row.at_s, row.note)
            for row in cosignatures(change.session)
        ]


def test_each_witnesss_newest_is_kept(ledger: Ledger) -> None:
    first, size = cosigned(ledger), ledger.registry.log.size()
    submit(ledger, first)
    ledger.active()
    grown = ledger.registry.log.size()
    newest = cosigned(ledger, at_s=8)
    submit(ledger, newest)
    submit(ledger, cosigned(ledger, BIRCH_ID), BIRCH_ID)
    # Late on its way: no step back.
    submit(ledger, first)

    assert grown > size
    assert kept(ledger) == [
        (str(ALDER_ID), grown, 8, newest),
        (str(BIRCH_ID), grown, 7, cosigned(ledger, BIRCH_ID)),
    ]


def test_of_the_same_size_the_newer_word_is_kept(ledger: Ledger) -> None:
    """So one sees that a witness still looks, while nothing is recorded."""
    submit(ledger, cosigned(ledger, at_s=7))
    submit(ledger, cosigned(ledger, at_s=9))

    assert [(ledger.registry.log.size(), 9)] == [each[1:3] for each in kept(ledger)]


def test_a_page_goes_on_after_the_last_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner in PENS:
        submit(ledger, cosigned(ledger, owner), owner)
    monkeypatch.setattr(module, "LARGEST_PAGE", 1)

    with ledger.change() as change:
        (first,) = cosignatures(change.session)
        (second,) = cosignatures(change.session, after=first.party_id)
        witnesses = [first.party.spiffe_id, second.party.spiffe_id]
        assert not cosignatures(change.session, after=second.party_id)
    assert [str(owner) for owner in PENS] == witnesses


def test_who_has_registered_no_key_witnesses_nothing(tmp_path: Path) -> None:
    """Not under the log's key either, which others could have signed with."""
    with open_ledger(tmp_path) as ledger:
        note = cosign(ledger.registry.log.checkpoint(), LOG_PEN, witness_name(ALDER), 7)

        with pytest.raises(SignatureError):
            submit(ledger, note)


def test_to_witness_the_log_does_not_make_it_longer(ledger: Ledger) -> None:
    """Else the witnesses would keep each other busy."""
    note, size = cosigned(ledger), ledger.registry.log.size()
    submit(ledger, note)

    assert size == ledger.registry.log.size()


def test_any_byte_changed_is_refused(ledger: Ledger) -> None:
    genuine = cosigned(ledger)

    for byte in range(len(genuine)):
        note = bytearray(genuine)
        note[byte] ^= 1
        with pytest.raises((SignatureError, CorruptFileError)):
            submit(ledger, bytes(note))
    assert not kept(ledger)


def test_the_cosignature_of_another_witness_is_refused(ledger: Ledger) -> None:
    with pytest.raises(SignatureError):
        submit(ledger, cosigned(ledger, BIRCH_ID), ALDER_ID)


def test_a_checkpoint_without_a_cosignature_is_refused(ledger: Ledger) -> None:
    with pytest.raises(SignatureError, match="got 0"):
        submit(ledger, ledger.registry.log.checkpoint())


def forged(ledger: Ledger, size: int, root: bytes) -> bytes:
    """Signed by the log's own key, as a restored backup's former self signed it."""
    note = sign_checkpoint(LOG_PEN, ledger.registry.log.origin, size, root)
    return cosign(note, PENS[ALDER_ID], witness_name(str(ALDER_ID)), 7)


def test_a_witness_that_has_seen_more_than_there_is_is_refused(ledger: Ledger) -> None:
    with pytest.raises(NotInLog):
        submit(ledger, forged(ledger, 1000, bytes(32)))


def test_a_witness_of_another_history_is_refused(ledger: Ledger) -> None:
    with pytest.raises(SignatureError, match="another history"):
        submit(ledger, forged(ledger, 3, bytes(32)))


def test_a_checkpoint_of_another_log_is_refused_though_our_key_signed_it(
    ledger: Ledger,
) -> None:
    log = ledger.registry.log
    ours = open_checkpoint(log.checkpoint(), log.public_key, log.origin)
    note = sign_checkpoint(LOG_PEN, "demo/another", ours.size, ours.root)

    with pytest.raises((SignatureError, CorruptFileError)):
        submit(ledger, cosign(note, PENS[ALDER_ID], witness_name(ALDER), 7))


def test_a_note_that_is_too_long_is_refused(ledger: Ledger) -> None:
    with pytest.raises(TooLargeError):
        submit(ledger, cosigned(ledger) * 20)


def test_the_database_itself_takes_no_note_that_is_too_long(ledger: Ledger) -> None:
    """It counts bytes, as we do, and not characters."""
    submit(ledger, cosigned(ledger))

    for note in (bytes(LONGEST_COSIGNED), b"\xff" * (LONGEST_COSIGNED + 1)):
        fits = len(note) <= LONGEST_COSIGNED
        with nullcontext() if fits else pytest.raises(ConstraintConflict):
            overwrite(ledger, note)
        assert kept(ledger)[0][-1] == bytes(LONGEST_COSIGNED)


def overwrite(ledger: Ledger, note: bytes) -> None:
    with ledger.change() as change:
        change.session.execute(update(Cosignature).values(note=note))


def test_operators_see_how_far_each_witness_is(ledger: Ledger) -> None:
    note = cosigned(ledger)
    context, size = fake_context(), ledger.registry.log.size()
    service = AuditService(ledger.registry)
    with acting_as(ALDER_ID):
        service.SubmitCosignature(pb.SubmitCosignatureRequest(checkpoint=note), context)
    ledger.active()
    with acting_as(OPERATOR_ID):
        answer = service.ListCosignatures(pb.ListCosignaturesRequest(), context)

    expected = pb.Cosignature(witness=str(ALDER_ID), size=size, at_s=7, checkpoint=note)
    assert [expected] == list(answer.cosignatures)
    assert (answer.next, answer.size) == (0, ledger.registry.log.size())
