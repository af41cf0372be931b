"""Orthogonal matrices from a seed: the same seed gives the same bits on every machine.

The recipe, named by `GENERATOR` and frozen by the vectors in `tests/vectors`:

1. HKDF-SHA256 (RFC 5869) turns seed, generator and dimension into a ChaCha20 key.
2. The ChaCha20 keystream (RFC 8439, counter and nonce zero) is read as little-endian
   64-bit integers; the upper 52 bits `k` of each give the uniform `(k + 1/2) / 2^52`.
3. The inverse normal distribution (Wichura 1988, algorithm AS 241, PPND16) turns
   uniforms into normals.
4. Householder reflections of Gaussian vectors of length 1, 2, ..., D are multiplied up
   (Stewart 1980, SIAM J. Numer. Anal. 17:403), with the signs that make the product
   Haar-distributed (Mezzadri 2007, arXiv math-ph/0609050).

Only operations that IEEE 754 rounds in one way are used: `+ - * / sqrt`, `frexp` and
comparisons, element by element, and sums in an order written here. No BLAS, no LAPACK,
no `np.sum`, no `np.log`: their last bits depend on the processor.
"""

from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jaxtyping import Float64

from core.errors import SeedError, ShapeError

GENERATOR: Final = "keymixer-haar-v1"
SEED_BYTES: Final = 32
# Work grows as D^3: 1024 takes seconds, 4096 minutes. Published patches need D < 1000.
MAX_DIMENSION: Final = 4096

Matrix = Float64[np.ndarray, "d d"]
Vector = Float64[np.ndarray, " m"]


def haar(seed: bytes | bytearray, dimension: int) -> Matrix:
    """Draw a Haar-distributed orthogonal matrix, D x D in float64, from a 32-byte seed.

    By induction: let `Q` be Haar on O(k-1), and `H` any orthogonal matrix that depends
    only on a Gaussian vector `x` and whose first column is `x / |x|`. Then
    `H · diag(1, Q)` is Haar on O(k).
    """
    if not 1 <= dimension <= MAX_DIMENSION:
        raise ShapeError(
            f"expected a dimension of 1 to {MAX_DIMENSION}, got {dimension}"
        )
    normals = _inverse_normal(_uniforms(seed, dimension))
    matrix = np.zeros((dimension, dimension))
    start = 0
    for size in range(1, dimension + 1):
        vector = normals[start : start + size]
        _grow(matrix[dimension - size :, dimension - size :], vector)
        start += size
    return matrix


def _uniforms(seed: bytes | bytearray, dimension: int) -> Vector:
    """Numbers in (0, 1), exact in float64: 1 + 2 + ... + D of them.

    53 bits and a half do not fit a float64: the largest would round to 1.
    """
    count = dimension * (dimension + 1) // 2
    words = np.frombuffer(_keystream(seed, dimension, 8 * count), dtype="<u8")
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _keystream(seed: bytes | bytearray, dimension: int, length: int) -> bytes:
    if len(seed) != SEED_BYTES:
        raise SeedError(f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}")
    info = GENERATOR.encode() + b"\x00" + dimension.to_bytes(4, "big")
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(seed)
    encryptor = Cipher(ChaCha20(key, nonce=bytes(16)), mode=None).encryptor()
    return encryptor.update(bytes(length))


def _grow(corner: Matrix, vector: Vector) -> None:
    """Turn `diag(., Q)` into `H · diag(1, Q)`, where `H` has first column `x / |x|`.

    With `s` the sign of `x_1` and `v = x + s |x| e_1`, Householder's reflection
    `I - v v^T / (|x| (|x| + |x_1|))` takes `e_1` to `-s x / |x|`, so `H` is `-s` times
    it. The sign makes the draw uniform: without it the corner is never positive.
    """
    first = vector[0]
    sign = np.copysign(1.0, first)
    if vector.size == 1:
        corner[0, 0] = sign
        return
    length = np.sqrt(sum_in_order(vector * vector))
    reflector = vector.copy()
    reflector[0] = first + sign * length
    corner[0, 0] = 1.0
    projection = sum_in_order(reflector[:, None] * corner)
    projection /= length * (length + np.abs(first))
    corner -= reflector[:, None] * projection
    corner *= -sign


def sum_in_order(terms: np.ndarray) -> np.ndarray | np.float64:
    """Sum along the first axis: the second half is added to the first, in place."""
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        terms[: len(terms) - half] += terms[half:]
        terms = terms[:half]
    return terms[0]


def _inverse_normal(uniforms: Vector) -> Vector:
    """The inverse of the normal distribution function, to about 1 part in 10^16."""
    centred = uniforms - 0.5
    central = np.abs(centred) <= 0.425  # noqa: PLR2004  AS 241's own split
    normals = np.empty_like(uniforms)
    q = centred[central]
    normals[central] = q * _ratio(0.180625 - q * q, _CENTRE)
    q = centred[~central]
    tail = 0.5 - np.abs(q)
    normals[~central] = np.copysign(_tail_quantile(tail), q)
    return normals


def _tail_quantile(tail: Vector) -> Vector:
    """The distance from 0 beyond which the normal distribution leaves `tail`."""
    r = np.sqrt(-_log(tail))
    return np.where(r <= 5.0, _ratio(r - 1.6, _TAIL), _ratio(r - 5.0, _FAR_TAIL))  # noqa: PLR2004  AS 241's own split


def _log(x: Vector) -> Vector:
    """The natural logarithm of positive normal numbers, without the C library's.

    `x = m 2^e` with `m` in [sqrt(1/2), sqrt(2)), and `log m = 2 artanh((m-1)/(m+1))`.
    """
    mantissa, exponent = np.frexp(x)
    small = mantissa < np.sqrt(0.5)
    mantissa = np.where(small, 2 * mantissa, mantissa)
    exponent = (exponent - small).astype(np.float64)
    f = (mantissa - 1) / (mantissa + 1)
    square = f * f
    series = np.zeros_like(f)
    for power in range(23, 1, -2):
        series = (series + 1.0 / power) * square
    return exponent * _LN2_HIGH + (exponent * _LN2_LOW + 2 * (f + f * series))


def _ratio(
    r: Vector, coefficients: tuple[tuple[float, ...], tuple[float, ...]]
) -> Vector:
    numerator, denominator = coefficients
    return _horner(r, numerator) / _horner(r, denominator)


def _horner(r: Vector, coefficients: tuple[float, ...]) -> Vector:
    value = np.full_like(r, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * r + coefficient
    return value


# ln 2 in two parts; the high one is short: its product with an exponent is exact.
_LN2_HIGH: Final = 6.93147180369123816490e-01
_LN2_LOW: Final = 1.90821492927058770002e-10

# AS 241, PPND16: numerator and denominator of three rational approximations, from the
# constant term up.
_CENTRE: Final = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
_TAIL: Final = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)
_FAR_TAIL: Final = (
    (
        6.65790464350110377720e0,
        5.46378491116411436990e0,
        1.78482653991729133580e0,
        2.96560571828504891230e-1,
        2.65321895265761230930e-2,
        1.24266094738807843860e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ),
    (
        1.0,
        5.99832206555887937690e-1,
        1.36929880922735805310e-1,
        1.48753612908506148525e-2,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ),
)
