"""The recipe of `core.orthogonal` once more, in plain Python, one number at a time.

Slow, and independent of NumPy: only the tables of AS 241 and the keystream are shared.
"""

import math

from core import orthogonal

Rows = list[list[float]]


def plain_haar(seed: bytes, dimension: int) -> Rows:
    """Return the rows of the matrix of `seed`."""
    normals = [_inverse_normal(u) for u in _uniforms(seed, dimension)]
    rows: Rows = []
    for size in range(1, dimension + 1):
        vector, normals = normals[:size], normals[size:]
        rows = _reflect(vector, _bordered(rows))
    return rows


def _uniforms(seed: bytes, dimension: int) -> list[float]:
    stream = orthogonal._keystream(seed, dimension, 4 * dimension * (dimension + 1))
    words = (stream[place : place + 8] for place in range(0, len(stream), 8))
    return [((int.from_bytes(w, "little") >> 12) + 0.5) * 2.0**-52 for w in words]


def _bordered(rows: Rows) -> Rows:
    """`diag(1, Q)`."""
    width = len(rows) + 1
    return [[1.0] + [0.0] * (width - 1), *([0.0, *row] for row in rows)]


def _reflect(vector: list[float], rows: Rows) -> Rows:
    first, sign = vector[0], math.copysign(1.0, vector[0])
    if len(vector) == 1:
        return [[sign]]
    length = math.sqrt(_sum([x * x for x in vector]))
    reflector = [first + sign * length, *vector[1:]]
    scale = length * (length + abs(first))
    columns = [
        _sum([r * x for r, x in zip(reflector, column, strict=True)]) / scale
        for column in zip(*rows, strict=True)
    ]
    return [
        [(x - r * p) * -sign for x, p in zip(row, columns, strict=True)]
        for r, row in zip(reflector, rows, strict=True)
    ]


def _sum(terms: list[float]) -> float:
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        # An odd term in the middle waits for the next round.
        pairs = zip(terms, terms[half:], strict=False)
        terms = [a + b for a, b in pairs] + terms[len(terms) - half : half]
    return terms[0]


def _inverse_normal(uniform: float) -> float:
    q = uniform - 0.5
    if abs(q) <= 0.425:
        return q * _ratio(0.180625 - q * q, orthogonal._CENTRE)
    r = math.sqrt(-_log(0.5 - abs(q)))
    tables = (r - 1.6, orthogonal._TAIL) if r <= 5 else (r - 5.0, orthogonal._FAR_TAIL)
    return math.copysign(_ratio(*tables), q)


def _log(x: float) -> float:
    mantissa, exponent = math.frexp(x)
    if mantissa < math.sqrt(0.5):
        mantissa, exponent = 2 * mantissa, exponent - 1
    f = (mantissa - 1) / (mantissa + 1)
    series = 0.0
    for power in range(23, 1, -2):
        series = (series + 1.0 / power) * (f * f)
    low = exponent * orthogonal._LN2_LOW + 2 * (f + f * series)
    return exponent * orthogonal._LN2_HIGH + low


def _ratio(r: float, tables: tuple[tuple[float, ...], tuple[float, ...]]) -> float:
    numerator, denominator = (_horner(r, table) for table in tables)
    return numerator / denominator


def _horner(r: float, coefficients: tuple[float, ...]) -> float:
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = value * r + coefficient
    return value
