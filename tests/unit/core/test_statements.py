"""Signatures count for one purpose, and statements have one form."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.canonical import canonical
from core.errors import CorruptFileError, SignatureError
from core.statements import (
    DESTRUCTION,
    ENVELOPE,
    EXPORT,
    ISSUE,
    MANIFEST,
    DestructionReceipt,
    IssueStatement,
    sign,
    verify,
)

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()
STATEMENT = IssueStatement(
    key_id="k-1",
    key_version=2,
    owner="spiffe://ward.example/north/data-owner",
    model="cifar10",
    model_version=3,
    digest="ab" * 32,
    patch_size=4,
    channels=3,
    hidden=128,
)


def test_a_signature_verifies() -> None:
    verify(PUBLIC, MANIFEST, b"payload", sign(PRIVATE, MANIFEST, b"payload"))


def test_the_signed_bytes_are_label_nul_payload() -> None:
    """Plain Ed25519 over the documented bytes, so that any language can check it."""
    expected = PRIVATE.sign(b"keymixer.v1/issued-model\x00payload")

    assert expected == sign(PRIVATE, ISSUE, b"payload")


@pytest.mark.parametrize("label", [ISSUE, ENVELOPE, EXPORT, DESTRUCTION, "", "manifes"])
def test_a_signature_for_one_purpose_counts_for_no_other(label: str) -> None:
    signature = sign(PRIVATE, MANIFEST, b"payload")

    with pytest.raises(SignatureError):
        verify(PUBLIC, label, b"payload", signature)


def test_label_and_payload_do_not_run_together() -> None:
    signature = sign(PRIVATE, "manifest", b"x")

    with pytest.raises(SignatureError):
        verify(PUBLIC, "manifestx", b"", signature)


@pytest.mark.parametrize("bit", range(0, 512, 37))
def test_a_changed_signature_is_refused(bit: int) -> None:
    signature = bytearray(sign(PRIVATE, MANIFEST, b"payload"))
    signature[bit // 8] ^= 1 << bit % 8

    with pytest.raises(SignatureError):
        verify(PUBLIC, MANIFEST, b"payload", bytes(signature))


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)])
def test_what_is_no_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(SignatureError):
        verify(PUBLIC, MANIFEST, b"payload", signature)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), b"\xff" * 32])
def test_what_is_no_public_key_is_refused(key: bytes) -> None:
    with pytest.raises(SignatureError):
        verify(key, MANIFEST, b"payload", sign(PRIVATE, MANIFEST, b"payload"))


def test_another_key_or_payload_is_refused() -> None:
    signature = sign(PRIVATE, MANIFEST, b"payload")
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()

    with pytest.raises(SignatureError):
        verify(other, MANIFEST, b"payload", signature)
    with pytest.raises(SignatureError):
        verify(PUBLIC, MANIFEST, b"payloae", signature)


def test_a_statement_is_read_back() -> None:
    assert IssueStatement.from_bytes(STATEMENT.to_bytes()) == STATEMENT


def test_a_statement_is_sorted_json_without_spaces() -> None:
    plain = json.dumps(asdict(STATEMENT), sort_keys=True, separators=(",", ":"))

    assert plain.encode() == STATEMENT.to_bytes()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digest", "ab"),
        ("digest", "AB" * 32),
        ("digest", "ab" * 32 + "\n"),
        ("key_version", 0),
        ("model_version", -1),
        ("hidden", 0),
        ("patch_size", True),
        ("channels", 3.5),
        ("owner", None),
        ("extra", 1),
    ],
)
def test_a_statement_that_cannot_be_is_refused(field: str, value: Any) -> None:
    document = canonical({**asdict(STATEMENT), field: value})

    with pytest.raises(CorruptFileError):
        IssueStatement.from_bytes(document)


@pytest.mark.parametrize("field", asdict(STATEMENT))
def test_a_statement_without_a_field_is_refused(field: str) -> None:
    document = asdict(STATEMENT)
    del document[field]

    with pytest.raises(CorruptFileError, match=field):
        IssueStatement.from_bytes(canonical(document))


def test_a_statement_about_another_key_has_other_bytes() -> None:
    assert replace(STATEMENT, key_version=3).to_bytes() != STATEMENT.to_bytes()


RECEIPT = DestructionReceipt(
    key_id="k-1",
    key_version=2,
    commitment="cd" * 32,
    destroyed_at_ms=1_750_000_000_000,
    covers="the seed",
    excludes="backups",
)


def test_a_receipt_of_destruction_is_read_back() -> None:
    assert DestructionReceipt.from_bytes(RECEIPT.to_bytes()) == RECEIPT


def test_a_receipt_of_destruction_is_sorted_json_without_spaces() -> None:
    plain = json.dumps(asdict(RECEIPT), sort_keys=True, separators=(",", ":"))

    assert plain.encode() == RECEIPT.to_bytes()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("commitment", "cd"),
        ("commitment", "CD" * 32),
        ("key_version", 0),
        ("destroyed_at_ms", 0),
        ("destroyed_at_ms", "now"),
        ("key_id", ""),
        ("covers", ""),
        ("excludes", ""),
        ("extra", 1),
    ],
)
def test_a_receipt_that_cannot_be_is_refused(field: str, value: Any) -> None:
    document = canonical({**asdict(RECEIPT), field: value})

    with pytest.raises(CorruptFileError):
        DestructionReceipt.from_bytes(document)


@pytest.mark.parametrize("field", asdict(RECEIPT))
def test_a_receipt_without_a_field_is_refused(field: str) -> None:
    document = asdict(RECEIPT)
    del document[field]

    with pytest.raises(CorruptFileError, match=field):
        DestructionReceipt.from_bytes(canonical(document))
