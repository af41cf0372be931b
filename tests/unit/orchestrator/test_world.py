"""Images are dealt out completely, in order, and to one owner each."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.datasets import Dataset
from core.errors import DataError
from orchestrator.simulation.world import deal, split, write_benchmark

shares = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.floats(0.05, 1.0),
    min_size=1,
    max_size=5,
)


@given(st.integers(100, 10_000), shares)
def test_every_image_goes_to_exactly_one_owner(
    count: int, shares: dict[str, float]
) -> None:
    """The parts are consecutive and cover everything, whatever the shares."""
    parts = split(count, shares).parts

    assert list(range(count)) == [i for part in parts.values() for i in part]


def test_an_owner_without_images_is_an_error() -> None:
    with pytest.raises(DataError, match="leave none"):
        split(2, {"a": 1.0, "b": 1.0, "c": 1.0})


def test_the_owners_parts_make_the_benchmark(tmp_path: Path) -> None:
    """The referee compares the same images, in the same order."""
    dataset = _dataset(10)
    dealt = split(7, {"a": 0.5, "b": 0.5})
    deal(dataset, dealt, lambda owner: tmp_path / owner)
    write_benchmark(dataset, dealt, tmp_path / "benchmark.npz")

    parts = [np.load(tmp_path / owner / "images.npz")["images"] for owner in "ab"]
    whole = np.load(tmp_path / "benchmark.npz")["images"]

    assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(whole, dataset.images[:7])


def _dataset(count: int) -> Dataset:
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)
    return Dataset("tiny", images, np.zeros(count, np.int64), ("only",), "digest")
