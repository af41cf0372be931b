"""One byte string for each JSON value (RFC 8785), to be signed and hashed."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

import orjson
import rfc8785

from core.errors import CorruptFileError, InvalidInput

_LARGEST_EXACT: Final = 2**53 - 1  # beyond it a number is a float64 (RFC 7493)
_SMALLEST: Final = 1e-4  # below it a plain writer may take an exponent


def canonical(value: Any) -> bytes:
    """Write a JSON value as RFC 8785 says: UTF-8, sorted names, no spaces.

    Raises:
        InvalidInput: for NaN, infinity, integers beyond 2^53 and what is not JSON.
    """
    try:
        return _written_plainly(value) or rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise InvalidInput(f"no canonical JSON for this value: {error}") from error


def parse(data: bytes) -> Any:
    """Read canonical JSON, and nothing else.

    Anything that would be written differently is refused: other spacing, order or
    number forms, duplicate names. So equal values have equal bytes and equal hashes.
    """
    try:
        return _parse_plain(data)
    except (ValueError, RecursionError):
        return _parse_any(data)


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


def _written_plainly(value: Any) -> bytes | None:
    """Write it with a plain JSON writer, ten times as fast; None: that might differ."""
    if not _is_plain(value):
        return None
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return None
    # Names beyond ASCII are in another order, that of their UTF-16 code units.
    return data if data.isascii() else None


def _is_plain(value: object) -> bool:
    """Say if every number in it looks the same in plain JSON as in RFC 8785."""
    kind = type(value)
    if isinstance(value, dict) and kind is dict:
        return _are_plain(value.values())
    if isinstance(value, int) and kind is int:
        return -_LARGEST_EXACT <= value <= _LARGEST_EXACT
    if isinstance(value, float) and kind is float:
        # Plain is 1.0 and 1e-5, and RFC 8785 writes 1 and 0.00001.
        return _SMALLEST <= abs(value) <= _LARGEST_EXACT and not value.is_integer()
    if isinstance(value, list) and kind is list:
        return _are_plain(value)
    return kind is str or kind is bool or value is None


def _are_plain(values: Iterable[object]) -> bool:
    # Most are strings: a loop passes over them for a third of what a generator takes.
    for each in values:  # noqa: SIM110
        if type(each) is not str and not _is_plain(each):
            return False
    return True


def _parse_any(data: bytes) -> Any:
    """Read and write it again, by the definition."""
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


def _parse_plain(data: bytes) -> Any:
    """Read ASCII without unusual numbers, or raise `ValueError`."""
    value = orjson.loads(data)
    if _written_plainly(value) != data:
        raise ValueError("perhaps not canonical")
    return value


def _number(digits: str) -> int | float:
    number = float(digits)
    return int(digits) if abs(number) <= _LARGEST_EXACT else number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
