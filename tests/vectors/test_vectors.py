"""The committed vectors are what the code gives, on any processor."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest

from tests.vectors.generate import FOLDER, render, vectors
from tests.vectors.plain_python import plain_haar

DIGEST_ALL = """
import hashlib
from tests.vectors.generate import render, vectors
print(hashlib.sha256(render(vectors()).encode()).hexdigest())
"""


@pytest.mark.parametrize("name", sorted(vectors()))
def test_the_code_gives_the_committed_vectors(name: str) -> None:
    assert (FOLDER / name).read_text() == render(vectors()[name])


def test_the_digests_are_those_of_the_matrices_written_out() -> None:
    """Someone without our code can check one file against itself."""
    content = json.loads((FOLDER / "haar.json").read_text())
    digests = {(v["seed"], v["dimension"]): v["sha256"] for v in content["digests"]}

    for vector in content["matrices"]:
        rows = [[float.fromhex(x) for x in row] for row in vector["rows"]]
        numbers = np.array(rows, dtype="<f8").tobytes()
        expected = digests[vector["seed"], vector["dimension"]]
        assert expected == hashlib.sha256(numbers).hexdigest()


def test_plain_python_gives_the_same_bits() -> None:
    """One IEEE 754 operation at a time: none of NumPy's loops, vectorised or not."""
    content = json.loads((FOLDER / "haar.json").read_text())

    for vector in content["matrices"]:
        matrix = plain_haar(bytes.fromhex(vector["seed"]), vector["dimension"])
        assert vector["rows"] == [[x.hex() for x in row] for row in matrix]


@pytest.mark.slow
def test_no_vector_unit_and_no_blas_kernel_changes_a_bit() -> None:
    """Each setting makes NumPy take other loops, or OpenBLAS another kernel."""
    expected = hashlib.sha256(render(vectors()).encode()).hexdigest()
    units: list[str] = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    without = [units[place:] for place in range(len(units))]
    settings: list[dict[str, str]] = [
        {"NPY_DISABLE_CPU_FEATURES": ",".join(group)} for group in without
    ]
    kernels = ("Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen")
    settings += [{"OPENBLAS_CORETYPE": kernel} for kernel in kernels]

    assert {str(s): _digest_with(s) for s in settings} == {
        str(s): expected for s in settings
    }


def _digest_with(setting: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", DIGEST_ALL],
        env={**os.environ, **setting},
        cwd=FOLDER.parent.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()
