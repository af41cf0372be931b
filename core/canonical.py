"""One byte string for each JSON value (RFC 8785), to be signed and hashed."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

import rfc8785

from core.errors import CorruptFileError, InvalidInput

_LARGEST_EXACT: Final = 2**53 - 1  # beyond it a number is a float64 (RFC 7493)
_SMALLEST: Final = 1e-4  # below it Python writes an exponent
_SURELY_EXACT: Final = len(str(_LARGEST_EXACT)) - 1  # so many digits, or a sign


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
    """Write it with Python's own writer, thrice as fast; None: that might differ."""
    if not _is_plain(value):
        return None
    text = _WRITER.encode(value)
    # Names beyond ASCII are in another order, that of their UTF-16 code units.
    return text.encode("ascii") if text.isascii() else None


def _is_plain(value: object) -> bool:
    """Say if every number and name in it looks the same in Python as in RFC 8785."""
    kind = type(value)
    if isinstance(value, dict) and kind is dict:
        return set(map(type, value)) <= {str} and _are_plain(value.values())
    if isinstance(value, list) and kind is list:
        return _are_plain(value)
    if isinstance(value, int) and kind is int:
        return abs(value) <= _LARGEST_EXACT
    if isinstance(value, float) and kind is float:
        # Python writes 1.0 and 1e-05, and RFC 8785 1 and 0.00001.
        return _SMALLEST <= abs(value) <= _LARGEST_EXACT and not value.is_integer()
    return kind is str or kind is bool or value is None


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
    """Read ASCII without unusual numbers, or raise: three times as fast.

    Python's own writer differs from RFC 8785 only in the order of names beyond ASCII
    and in how some numbers look; see `_plain_int` and `_plain_float`.
    """
    text = data.decode("ascii")
    value, _ = _READER.raw_decode(text)
    if _WRITER.encode(value) != text:
        raise ValueError("not canonical")
    return value


def _plain_int(digits: str) -> int:
    if len(digits) > _SURELY_EXACT:
        raise ValueError("perhaps not exact")
    return int(digits)


def _plain_float(digits: str) -> float:
    """Python writes 1.0 and 1e-07, and RFC 8785 1 and 1e-7; else they agree."""
    if digits.endswith(".0") or "e" in digits or "E" in digits:
        raise ValueError("written differently")
    return float(digits)


def _are_plain(values: Iterable[object]) -> bool:
    return all(_is_plain(each) for each in values if type(each) is not str)


def _number(digits: str) -> int | float:
    number = float(digits)
    return int(digits) if abs(number) <= _LARGEST_EXACT else number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_READER: Final = json.JSONDecoder(
    parse_int=_plain_int, parse_float=_plain_float, parse_constant=_refuse
)
_WRITER: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":")
)
