"""Seed to matrix: each step against an independent oracle, then the distribution."""

import ast
import hashlib
import hmac
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest, norm

from core import orthogonal
from core.errors import SeedError, ShapeError
from core.orthogonal import GENERATOR, haar

SEED = bytes(range(32))


@pytest.mark.parametrize("dimension", [1, 2, 3, 12, 48, 147, 192, 300])
def test_the_matrix_is_orthogonal(dimension: int) -> None:
    matrix = haar(SEED, dimension)

    assert_allclose(matrix @ matrix.T, np.eye(dimension), atol=1e-13)


@pytest.mark.slow
def test_a_large_matrix_is_orthogonal() -> None:
    matrix = haar(SEED, 1024)

    assert_allclose(matrix @ matrix.T, np.eye(1024), atol=1e-13)


def test_seeds_and_dimensions_give_unrelated_matrices() -> None:
    """A corner of the larger is not the smaller: the dimension is in the derivation."""
    matrix = haar(SEED, 12)

    assert np.abs(matrix - haar(bytes(32), 12)).max() > 0.1
    assert np.abs(matrix[-3:, -3:] - haar(SEED, 3)).max() > 0.1
    assert_array_equal(matrix, haar(bytearray(SEED), 12))


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(SeedError, match=f"got {length}"):
        haar(bytes(length), 3)


@pytest.mark.parametrize("dimension", [-1, 0, orthogonal.MAX_DIMENSION + 1])
def test_a_dimension_out_of_range_is_refused(dimension: int) -> None:
    with pytest.raises(ShapeError):
        haar(SEED, dimension)


# --- seed to normals ---


def test_the_keystream_is_the_two_rfcs() -> None:
    """HKDF (RFC 5869) and ChaCha20 (RFC 8439), written out from their texts."""
    info = GENERATOR.encode() + b"\x00" + (7).to_bytes(4, "big")
    extracted = hmac.digest(bytes(32), SEED, "sha256")
    key = hmac.digest(extracted, info + b"\x01", "sha256")
    blocks = b"".join(_chacha20_block(key, counter) for counter in range(4))

    assert orthogonal._keystream(SEED, 7, 256) == blocks


def test_the_oracle_for_chacha20_passes_the_rfcs_own_vector() -> None:
    """RFC 8439, appendix A.1, test vector 1."""
    block = _chacha20_block(bytes(32), 0)

    assert block[:16].hex() == "76b8e0ada0f13d90405d6ae55386bd28"


@pytest.mark.parametrize("byte", [b"\x00", b"\xff", b"\x7f", b"\x80"])
def test_no_keystream_gives_a_uniform_of_0_or_1(
    byte: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 53 bits, not 52, a word of ones would round to 1: an infinite normal."""
    monkeypatch.setattr(orthogonal, "_keystream", lambda _seed, _dimension, n: byte * n)
    uniforms = orthogonal._uniforms(SEED, 3)

    assert ((uniforms > 0) & (uniforms < 1)).all()
    assert np.isfinite(orthogonal._inverse_normal(uniforms)).all()


def test_the_normals_are_the_inverse_of_the_distribution_function() -> None:
    """scipy's inverse is another algorithm (Cephes); they agree to a few last bits."""
    drawn = orthogonal._uniforms(SEED, 500)
    powers = 2.0 ** -np.arange(2, 54)
    # Where the three approximations meet, on the grid of 2^-53 that uniforms lie on.
    joints = np.rint(np.array([0.075, 0.925, math.exp(-25), 0.5]) * 2**53)
    around = [(joints + step) * 2.0**-53 for step in (-1, 0, 1)]
    uniforms = np.concatenate([drawn, powers, 1 - powers, *around])

    normals = orthogonal._inverse_normal(uniforms)

    assert_allclose(normals, norm.ppf(uniforms), rtol=2e-15, atol=1e-16)
    # 125,250 draws of the keystream itself are normal, too.
    assert kstest(normals[: len(drawn)], "norm").pvalue > 0.01


def test_the_logarithm_is_the_c_librarys_to_the_last_bit_or_the_one_before() -> None:
    """On the tails, 2^-53 to 0.075, which is all that AS 241 asks of it."""
    x = np.concatenate(
        [np.geomspace(2.0**-53, 0.075, 50_000), 2.0 ** -np.arange(4, 54)]
    )
    expected = np.array([math.log(value) for value in x])

    assert (np.abs(orthogonal._log(x) - expected) <= np.spacing(np.abs(expected))).all()


def test_the_sum_has_the_value_of_an_exact_sum() -> None:
    terms = np.random.default_rng(0).standard_normal((37, 5))
    expected = [math.fsum(column) for column in terms.T]

    assert_allclose(orthogonal.sum_in_order(terms.copy()), expected, atol=1e-14)


# --- normals to matrix ---


def test_the_matrix_is_the_product_of_its_reflections() -> None:
    """The definition, slowly: each factor built whole, then multiplied up."""
    dimension = 9
    normals = orthogonal._inverse_normal(orthogonal._uniforms(SEED, dimension))
    expected = np.eye(dimension)
    for size in range(1, dimension + 1):
        vector, normals = normals[:size], normals[size:]
        factor = np.eye(dimension)
        factor[-size:, -size:] = _rotation_to(vector)
        expected = factor @ expected

    assert_allclose(haar(SEED, dimension), expected, atol=1e-14)


def test_nothing_is_used_whose_last_bit_depends_on_the_processor() -> None:
    """Only what IEEE 754 rounds in one way, and what moves numbers about."""
    exact = {"abs", "copysign", "frexp", "sqrt", "where"}
    moving = {"empty_like", "float64", "frombuffer", "full_like", "ndarray", "uint64"}
    tree = ast.parse(Path(orthogonal.__file__).read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "np"
    }

    assert used <= exact | moving | {"zeros", "zeros_like"}
    assert not any(isinstance(node, ast.MatMult | ast.Pow) for node in _operators(tree))


# --- the distribution ---


def test_the_matrices_are_haar_distributed() -> None:
    assert _deviations(_draw(6, 4000), _draw(3, 4000)) == []


@pytest.mark.parametrize(
    "mutant",
    ["no sign", "no sign of the last reflection", "LAPACK without the sign fix"],
)
def test_a_forgotten_sign_is_noticed(
    mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mutant is orthogonal to the last bit: only the distribution tells."""
    monkeypatch.setattr(orthogonal, "_grow", MUTANTS[mutant])
    sixes, threes = _draw(6, 1000), _draw(3, 1000)

    products = sixes @ sixes.transpose(0, 2, 1)
    assert_allclose(products, np.broadcast_to(np.eye(6), products.shape), atol=1e-13)
    assert _deviations(sixes, threes) != []


def _draw(dimension: int, samples: int) -> np.ndarray:
    seeds = (
        hashlib.sha256(f"{dimension} {i}".encode()).digest() for i in range(samples)
    )
    return np.stack([haar(seed, dimension) for seed in seeds])


def _deviations(sixes: np.ndarray, threes: np.ndarray) -> list[str]:
    """Which properties of the Haar measure the samples lack, at 5 deviations.

    `E tr^2 = 1`, `E tr^4 = 3` on O(n), n >= 4 (Diaconis & Shahshahani 1994); half have
    determinant 1, whatever the entries are; `E Q_ij = 0`; on O(3) each entry is uniform
    in [-1, 1] (Archimedes).
    """
    trace = np.trace(sixes, axis1=1, axis2=2)
    turned = threes * np.linalg.det(threes)[:, None, None]
    root = math.sqrt(len(sixes))
    bounds = {
        "tr^2": abs((trace**2).mean() - 1) / (math.sqrt(2) / root),
        "tr^4": abs((trace**4).mean() - 3) / (math.sqrt(96) / root),
        "determinant": abs(np.linalg.det(sixes).mean()) / (1 / root),
        "mean of an entry": np.abs(sixes.mean(axis=0)).max()
        / (math.sqrt(1 / 6) / root),
        "determinant against an entry": np.abs(turned.mean(axis=0)).max()
        / (math.sqrt(1 / 3) / root),
        "entries of O(3)": -math.log10(
            min(
                kstest(threes[:, i, j], "uniform", args=(-1, 2)).pvalue + 1e-300
                for i in range(3)
                for j in range(3)
            )
        ),
    }
    return [name for name, distance in bounds.items() if distance > 5]


def _rotation_to(vector: np.ndarray, sign: float | None = None) -> np.ndarray:
    """An orthogonal matrix whose first column is `vector / |vector|`."""
    first = np.eye(len(vector))[:, 0]
    sign = math.copysign(1, vector[0]) if sign is None else sign
    v = vector + math.copysign(1, vector[0]) * np.linalg.norm(vector) * first
    if len(vector) == 1:
        return np.array([[sign]])
    rotation: np.ndarray = -sign * (np.eye(len(vector)) - 2 * np.outer(v, v) / (v @ v))
    return rotation


def _grow_without_sign(corner: np.ndarray, vector: np.ndarray) -> None:
    corner[0, 0] = 1
    corner[:] = _rotation_to(vector, sign=1.0) @ corner


def _grow_without_last_sign(corner: np.ndarray, vector: np.ndarray) -> None:
    corner[0, 0] = 1
    corner[:] = _rotation_to(vector, sign=1.0 if len(vector) == 1 else None) @ corner


def _grow_by_lapack(corner: np.ndarray, vector: np.ndarray) -> None:
    """At the last step, the Q of a Gaussian matrix as LAPACK leaves it."""
    corner[:] = np.eye(len(vector))
    if len(vector) in (3, 6):
        rng = np.random.default_rng(int(abs(vector[0]) * 2**50))
        corner[:] = np.linalg.qr(rng.standard_normal(corner.shape)).Q


MUTANTS: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "no sign": _grow_without_sign,
    "no sign of the last reflection": _grow_without_last_sign,
    "LAPACK without the sign fix": _grow_by_lapack,
}


def _operators(tree: ast.AST) -> list[ast.operator]:
    return [
        node.op
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp | ast.AugAssign)
        # Powers of constants, such as 2.0**-52, are exact.
        and not (isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant))
    ]


def _chacha20_block(key: bytes, counter: int) -> bytes:
    constants = struct.unpack("<4I", b"expand 32-byte k")
    state = [*constants, *struct.unpack("<8I", key), counter, 0, 0, 0]
    working = list(state)
    columns = [(i, i + 4, i + 8, i + 12) for i in range(4)]
    diagonals = [
        (i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)
    ]
    for quarter in (columns + diagonals) * 10:
        _quarter_round(working, *quarter)
    total = [(a + b) % 2**32 for a, b in zip(working, state, strict=True)]
    return struct.pack("<16I", *total)


def _quarter_round(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for to, other, mixed, shift in [
        (a, b, d, 16),
        (c, d, b, 12),
        (a, b, d, 8),
        (c, d, b, 7),
    ]:
        state[to] = (state[to] + state[other]) % 2**32
        turned = state[mixed] ^ state[to]
        state[mixed] = (turned << shift | turned >> (32 - shift)) % 2**32
