"""What the audit log must say of a model before it is used, and of an answer after."""

from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from typing import Any, Final

from core.canonical import parse, take_fields
from core.manifest import Manifest
from core.receipt import Receipt as Proof
from parties.data_owner.answers import Receipt
from parties.data_owner.errors import UnrecordedError, WrongReceiptError
from parties.data_owner.witness import Witness
from protos.registry_pb2 import IssuedModel

_FIELDS: Final = {
    "v": int,
    "index": int,
    "time_ms": int,
    "kind": str,
    "actor": str,
    "subject": dict,
}
_LAYOUT: Final = 1


def require_recorded(witness: Witness, issued: IssuedModel, manifest: Manifest) -> None:
    """Return if the log holds the record that this issued model went live.

    Raises:
        UnrecordedError: it does not, or the record is about another.
    """
    if not issued.audit_index:
        raise UnrecordedError("the registry names no record of the issued model")
    expected = {
        "owner": issued.owner,
        "key_id": issued.key_id,
        "key_version": issued.key_version,
        "model": issued.model,
        "model_version": issued.model_version,
        "model_digest": digest_of(manifest),
        "digest": issued.digest.hex(),
        "issued_state": "live",
    }
    proof = witness.prove(issued.audit_index)
    if wrong := _differing(proof, "issued.live", expected):
        raise UnrecordedError(f"record {proof.index} differs in: {wrong}")


def redeem(witness: Witness, receipt: Receipt, manifest: Manifest) -> Proof:
    """Return the proof that the log holds the record of this very answer.

    Raises:
        UnrecordedError: the log has no such record.
        WrongReceiptError: it says something else than was sent and received.
    """
    said = asdict(receipt)
    for name in ("audit_index", "audit_nonce"):
        del said[name]
    expected = {
        **said,
        "owner": str(witness.owner),
        "model_digest": digest_of(manifest),
    }
    proof = witness.prove(receipt.audit_index)
    if wrong := _differing(proof, "inference", expected):
        raise WrongReceiptError(f"record {proof.index} differs in: {wrong}")
    return proof


def digest_of(manifest: Manifest) -> str:
    """The SHA-256 of a manifest in hex, which names a release in the log."""
    return sha256(manifest.to_bytes()).hexdigest()


def _differing(proof: Proof, kind: str, expected: Mapping[str, Any]) -> str:
    """Which fields of a record are not as expected; empty: none."""
    record = take_fields(parse(proof.extra), _FIELDS)
    whole = {"v": _LAYOUT, "index": proof.index, "kind": kind}
    wrong = [name for name, value in whole.items() if record[name] != value]
    said = record["subject"]
    wrong += [name for name, value in expected.items() if said.get(name) != value]
    return ", ".join(wrong)
