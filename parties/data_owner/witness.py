"""A data owner as a witness of the audit log: it believes no step back and no fork.

Each checkpoint must extend the one before, and is on disk before anything relies on it.
The owner then cosigns it, so that the operator can show who has seen the log how far.
A log that shows every owner a history of its own, and each always the same, is found
only when owners compare what they keep.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.checkpoint import stated_origin
from core.cosignature import cosign, witness_name
from core.errors import KeymixerError, SignatureError, Unavailable
from core.merkle import ProofError, verify_consistency
from core.receipt import Receipt, verify_receipt
from core.rpc.errors import RemoteError, remote_errors
from core.rpc.identity import SpiffeId
from parties.data_owner.errors import (
    LogForkedError,
    LogKeyChangedError,
    LogRolledBackError,
    UnrecordedError,
)
from parties.data_owner.witnessed import Witnessed, WitnessFile
from protos import audit_pb2 as pb
from protos.audit_pb2_grpc import AuditServiceStub

log = logging.getLogger(__name__)

# What the log answers when it has not the records it is asked about.
_NOT_HELD: Final = "NotInLog"


@dataclass(slots=True)
class Witness:
    """One owner's view of the log. Not for use by several threads at once.

    `log_key` is the log's Ed25519 key if it was given beforehand; empty: the first one
    that is seen is pinned. A look is due every `every_s` seconds.
    """

    owner: SpiffeId
    signing_key: Ed25519PrivateKey = field(repr=False)
    stub: AuditServiceStub
    file: WitnessFile
    log_key: bytes = b""
    every_s: float = 0.0
    clock: Callable[[], float] = time.time
    _looked: float | None = None

    def refresh(self) -> None:
        """Look at the log, if a look is due."""
        now = time.monotonic()
        if self._looked is None or now - self._looked >= self.every_s:
            self.look()

    def look(self, covering: int = 0) -> Witnessed:
        """Return a checkpoint of the log that extends all that was seen before.

        It is the newest that is signed already, if that covers `covering` records: the
        log signs every second, and need not do so for each of its witnesses.

        Raises:
            LogForkedError: it does not; the two checkpoints are kept as evidence.
            LogRolledBackError: it is smaller than the one before.
            LogKeyChangedError: it is another log's.
            CorruptFileError: what this owner kept cannot be read.
        """
        now = time.monotonic()
        while True:
            kept = self.file.read()
            seen = self._newest(kept, covering)
            if kept is not None:
                self._require_extends(kept, seen)
                if kept.checkpoint == seen.checkpoint:
                    self._looked = now
                    return kept
            if self.file.replace(kept, seen):
                break
        self._looked = now
        self._submit(seen)
        return seen

    def covering(self, index: int) -> Witnessed:
        """Return a checkpoint of a tree that holds record `index`.

        Raises:
            UnrecordedError: the log is not that long; and what `look` raises.
        """
        seen = self.file.read()
        if seen is None or seen.checkpoint.size <= index:
            seen = self.look(index + 1)
        if seen.checkpoint.size <= index:
            raise UnrecordedError(
                f"no record {index} in a log of {seen.checkpoint.size}"
            )
        return seen

    def prove(self, index: int) -> Receipt:
        """Return a receipt of a record that names this owner; it is verified.

        Raises:
            UnrecordedError: the log has no such record, or does not prove it.
        """
        seen = self.covering(index)
        asked = pb.ListEntriesRequest(start=index, limit=1)
        with remote_errors("orchestrator"):
            entries = self.stub.ListEntries(asked).entries
        if [entry.index for entry in entries] != [index]:
            raise UnrecordedError(f"the log shows no record {index}")
        path = self._inclusion_path(index, seen.checkpoint.size)
        receipt = Receipt(index, path, seen.note, entries[0].body)
        try:
            origin = seen.checkpoint.origin
            verify_receipt(receipt, receipt.extra, seen.public_key, origin)
        except SignatureError as error:
            raise UnrecordedError(f"record {index} is not in the log") from error
        return receipt

    def _newest(self, kept: Witnessed | None, covering: int) -> Witnessed:
        """Ask for a checkpoint of the log that is pinned, or to be pinned."""
        if kept is not None:
            covering = max(covering, kept.checkpoint.size)
        with remote_errors("orchestrator"):
            answer = self.stub.GetCheckpoint(pb.GetCheckpointRequest(covering=covering))
        origin, key = stated_origin(answer.checkpoint), answer.public_key
        pinned = (
            (origin, self.log_key or key)
            if kept is None
            else (kept.checkpoint.origin, self.log_key or kept.public_key)
        )
        if (origin, key) != pinned:
            raise LogKeyChangedError(
                f"expected {pinned[0]} with the key {pinned[1].hex()[:16]}..., "
                f"got {origin:.80} with {key.hex()[:16]}..."
            )
        return Witnessed.verified(answer.checkpoint, key, origin)

    def _require_extends(self, kept: Witnessed, seen: Witnessed) -> None:
        old, new = kept.checkpoint, seen.checkpoint
        if new.size < old.size:
            self.file.keep_evidence(kept.note, seen.note)
            raise LogRolledBackError(f"{new.size} records, {old.size} were seen")
        if old.size == 0:
            return
        try:
            verify_consistency(
                first_size=old.size,
                second_size=new.size,
                first_root=old.root,
                second_root=new.root,
                path=self._consistency_path(old.size, new.size),
            )
        except ProofError as error:
            self.file.keep_evidence(kept.note, seen.note)
            raise LogForkedError(
                f"{new.size} records do not extend the {old.size} seen: {error}"
            ) from error

    def _consistency_path(self, first: int, second: int) -> tuple[bytes, ...]:
        if first == second:
            return ()
        asked = pb.GetConsistencyProofRequest(first_size=first, second_size=second)
        try:
            with remote_errors("orchestrator"):
                return tuple(self.stub.GetConsistencyProof(asked).path)
        except RemoteError as error:
            if error.kind != _NOT_HELD:
                raise
            raise ProofError("the log gives no proof") from error

    def _inclusion_path(self, index: int, size: int) -> tuple[bytes, ...]:
        asked = pb.GetInclusionProofRequest(index=index, tree_size=size)
        try:
            with remote_errors("orchestrator"):
                return tuple(self.stub.GetInclusionProof(asked).path)
        except RemoteError as error:
            if error.kind != _NOT_HELD:
                raise
            raise UnrecordedError(f"the log does not prove record {index}") from error

    def _submit(self, seen: Witnessed) -> None:
        """Cosign it. If the log does not take it, the owner asks on all the same."""
        name = witness_name(str(self.owner))
        note = cosign(seen.note, self.signing_key, name, int(self.clock()))
        try:
            with remote_errors("orchestrator"):
                self.stub.SubmitCosignature(
                    pb.SubmitCosignatureRequest(checkpoint=note)
                )
        except KeymixerError as error:
            level = logging.INFO if isinstance(error, Unavailable) else logging.WARNING
            facts = {"size": seen.checkpoint.size, "kind": error.kind}
            log.log(level, "a cosignature was not taken", extra=facts)
