"""RFC 8785, and a reader that takes no other form."""

import json
import math
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from core.canonical import canonical, parse, take_fields
from core.errors import CorruptFileError, InvalidInput

finite = st.floats(allow_nan=False, allow_infinity=False)
small = st.integers(-(2**53) + 1, 2**53 - 1)
scalars = st.none() | st.booleans() | small | finite | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def test_the_example_of_rfc_8785_has_its_published_bytes() -> None:
    """Section 3.2.2: the numbers and the string of the RFC."""
    source = r"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    published = (
        '{"literals":[null,true,false],'
        '"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )

    assert published.encode() == canonical(json.loads(source))


def test_names_are_sorted_as_utf_16() -> None:
    """Section 3.2.3: by code units, in which an emoji comes before U+FB33."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    published = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]

    assert published == list(json.loads(canonical(dict.fromkeys(names, 0))))


@given(values)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert value == parse(canonical(value))


# Most records are of this kind, and written by a shorter way.
ascii_text = st.text(st.characters(max_codepoint=127))
decimals = st.decimals(-1e6, 1e6, places=3).map(float)


@given(values | st.dictionaries(ascii_text, ascii_text | small | finite | decimals))
def test_either_way_writes_what_the_library_writes(value: Any) -> None:
    assert rfc8785.dumps(value) == canonical(value)


@given(values)
def test_there_is_one_form_only(value: Any) -> None:
    data = canonical(value)

    assert data == canonical(parse(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b' {"a":1}',
        b'{"a":1}\n',
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b"1.0",
        b"1e2",
        b"-0",
        b"01",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"9007199254740993",
        b"9" * 5000,
        b'"\\u0041"',
        b'"\\/"',
        b'"\\ud800"',
        b'"\xff"',
        b'\xef\xbb\xbf{"a":1}',
        b"[" * 100_000,
        b"[" * 900 + b"]" * 900 + b" ",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptFileError):
        parse(data)


def test_a_large_number_is_a_float_as_everywhere_in_json() -> None:
    assert canonical(1e20) == b"100000000000000000000"
    assert type(parse(canonical(1e20))) is float
    assert type(parse(canonical(2**53 - 1))) is int


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**53, {1: 2}, b"bytes", "\ud800", object()]
)
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        canonical(value)


def test_an_object_without_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(InvalidInput):
        canonical(endless)


def test_fields_are_exactly_the_expected() -> None:
    assert take_fields({"a": 1, "b": 2}, {"a": int, "b": float}) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    "document",
    [
        [],
        None,
        {},
        {"a": 1, "b": 2},
        {"a": 1.5},
        {"a": True},
        {"a": "1"},
        {"a": None},
    ],
)
def test_missing_unknown_and_mistyped_fields_are_refused(document: Any) -> None:
    with pytest.raises(CorruptFileError):
        take_fields(document, {"a": int})


def test_a_boolean_is_no_number() -> None:
    with pytest.raises(CorruptFileError, match="expected float, got bool"):
        take_fields({"a": True}, {"a": float})


def slowly(data: bytes) -> Any:
    """By the definition: read with every number in mind, write, and compare."""
    value = json.loads(data, parse_int=number)

    if rfc8785.dumps(value) != data:
        raise CorruptFileError("another form")
    return value


def number(digits: str) -> int | float:
    exact = abs(float(digits)) < 2**53
    return int(digits) if exact else float(digits)


written = st.sampled_from(
    [
        *("0", "-0", "1.0", "0.1", "0.10", "1e-7", "1e-07", "1e+20", "1E5", "0.00001"),
        *("1e-05", "9007199254740991", "9007199254740993", "123456789012345680000"),
        *("1e16", "10000000000000000", "1.5e300", "1.5e+300", "-5e-324", "-0.0"),
        *(r'"\n"', r'"\u000a"', r'"\u001f"', r'"\u001F"', '"\x7f"', '"\U0001f600"'),
        *(r'"\ud83d\ude00"', r'"\ud800"', r'"\/"', "true", "null", '" "', " 1", "NaN"),
    ]
) | finite.map(repr)
names = st.sampled_from(["a", "b", "\ufb33", "\U0001f600", r"\u0061", ""])


@given(st.lists(st.tuples(names, written), max_size=3))
def test_the_quick_way_takes_what_the_slow_way_takes(
    parts: list[tuple[str, str]],
) -> None:
    text = ",".join(f'"{name}":{value}' for name, value in parts)
    data = f"{{{text}}}".encode()
    try:
        expected = slowly(data)
    except (ValueError, CorruptFileError):
        with pytest.raises(CorruptFileError):
            parse(data)
    else:
        assert expected == parse(data)
        assert repr(expected) == repr(parse(data))  # 1 and 1.0 are equal


@given(finite)
def test_every_number_is_read_in_its_one_form(number: float) -> None:
    python, rfc = repr(number).encode(), rfc8785.dumps(number)

    assert parse(rfc) == number
    if python != rfc:
        with pytest.raises(CorruptFileError):
            parse(python)
