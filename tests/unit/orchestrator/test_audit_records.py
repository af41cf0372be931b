"""A record has one form, and what does not fit it is refused before it is hashed."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit.records import (
    MAX_BODY_BYTES,
    MAX_FACTS,
    Entry,
    Fact,
    parse_entry,
)
from orchestrator.errors import RecordMalformed

ENTRY = Entry(7, 1_750_000_000_000, "key.created", "spiffe://t/o/operator", {"v": 1})

names = st.text(max_size=20)
facts = st.dictionaries(
    names,
    st.text(max_size=50)
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    max_size=8,
)


def changed(**fields: object) -> Entry:
    known = {name: getattr(ENTRY, name) for name in Entry.__slots__}
    return Entry(**known | fields)


def test_the_body_is_the_documented_canonical_json() -> None:
    assert ENTRY.to_bytes() == (
        b'{"actor":"spiffe://t/o/operator","index":7,"kind":"key.created",'
        b'"subject":{"v":1},"time_ms":1750000000000,"v":1}'
    )


@given(facts)
def test_a_body_reads_back(subject: dict[str, Fact]) -> None:
    entry = changed(subject=subject)

    assert parse_entry(entry.to_bytes()) == entry


@pytest.mark.parametrize(
    "entry",
    [
        changed(kind=""),
        changed(kind="Key.Created"),
        changed(kind="key..created"),
        changed(kind="key created"),
        changed(kind="k" * 65),
        changed(index=-1),
        changed(time_ms=-1),
        changed(subject={"weight": [1.0, 2.0]}),
        changed(subject={"confirmed": True}),
        changed(subject={"nothing": None}),
        changed(subject={"digest": b"bytes"}),
        changed(subject={1: "one"}),
        changed(subject={"nan": math.nan}),
        changed(subject={"infinity": math.inf}),
        changed(subject={"large": 2**53}),
        changed(subject={"half": "\ud800"}),
        changed(subject={f"f{n}": n for n in range(MAX_FACTS + 1)}),
        changed(subject={"long": "x" * MAX_BODY_BYTES}),
        changed(actor="\udfff"),
    ],
    ids=lambda entry: f"{entry.kind[:12]!r} {str(entry.subject)[:20]!a}",
)
def test_what_no_record_may_say_is_refused(entry: Entry) -> None:
    with pytest.raises(RecordMalformed):
        entry.to_bytes()


def test_a_refusal_quotes_nothing_of_the_subject() -> None:
    """The subject comes from a party and the message goes to a log."""
    with pytest.raises(RecordMalformed) as caught:
        changed(subject={"SECRET": b"SECRET"}).to_bytes()

    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"not json",
        ENTRY.to_bytes()[:-1],
        ENTRY.to_bytes() + b"\n",
        ENTRY.to_bytes().replace(b'"v":1}', b'"v":2}'),
        ENTRY.to_bytes().replace(b":7", b": 7"),
        ENTRY.to_bytes().replace(b":7", b':"7"'),
        ENTRY.to_bytes().replace(b":7", b":true"),
        ENTRY.to_bytes().replace(b'"kind":"key.created",', b""),
        ENTRY.to_bytes().replace(b"key.created", b"Key"),
        ENTRY.to_bytes().replace(b'"index"', b'"extra":1,"index"'),
        json.dumps(json.loads(ENTRY.to_bytes())).encode(),
    ],
)
def test_other_bytes_are_no_record(body: bytes) -> None:
    with pytest.raises(RecordMalformed):
        parse_entry(body)
