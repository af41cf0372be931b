"""One byte string for each JSON value (RFC 8785), to be signed and hashed."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import rfc8785

from core.errors import CorruptFileError, InvalidInput

_LARGEST_EXACT = 2**53 - 1  # beyond it a JSON number is a float64 (RFC 7493)


def canonical(value: Any) -> bytes:
    """Write a JSON value as RFC 8785 says: UTF-8, sorted names, no spaces.

    Raises:
        InvalidInput: for NaN, infinity, integers beyond 2^53 and what is not JSON.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise InvalidInput(f"no canonical JSON for this value: {error}") from error


def parse(data: bytes) -> Any:
    """Read canonical JSON, and nothing else.

    Anything that would be written differently is refused: other spacing, order or
    number forms, duplicate names. So equal values have equal bytes and equal hashes.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), parse_int=_number, parse_constant=_refuse
        )
        again = rfc8785.dumps(value)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError("expected canonical JSON (RFC 8785)") from error
    if again != data:
        raise CorruptFileError("expected canonical JSON (RFC 8785), got another form")
    return value


def take_fields(document: Any, expected: Mapping[str, type]) -> dict[str, Any]:
    """Return a JSON object that has exactly the expected fields with these types.

    `float` takes integers too, for canonical JSON writes 1.0 as 1; no number takes a
    boolean.
    """
    if type(document) is not dict:
        raise CorruptFileError(f"expected an object, got {type(document).__name__}")
    if document.keys() != expected.keys():
        wrong = ", ".join(sorted(document.keys() ^ expected.keys()))
        raise CorruptFileError(f"missing or unknown fields: {wrong:.200}")
    for name, wanted in expected.items():
        got = type(document[name])
        if got is not wanted and (wanted, got) != (float, int):
            raise CorruptFileError(
                f"{name}: expected {wanted.__name__}, got {got.__name__}"
            )
    return document


def _number(digits: str) -> int | float:
    number = float(digits)
    return int(digits) if abs(number) <= _LARGEST_EXACT else number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
