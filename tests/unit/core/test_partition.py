"""Every image is dealt to one site, the same way each time; sites may be as unlike."""

from pathlib import Path

import numpy as np
import pytest

from core.datasets.partition import (
    LEAST,
    Partition,
    organisations,
    relabelled,
    take,
    united,
)
from core.datasets.source import dataset
from core.errors import ConfigurationError, DataError

LABELS = (np.repeat(np.arange(5), 60), np.repeat(np.arange(5), 20))


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.3", "dirichlet:100"])
@pytest.mark.parametrize("sites", [2, 7])
def test_every_image_is_dealt_to_exactly_one_site(text: str, sites: int) -> None:
    dealt = Partition.parse(text).deal(LABELS, sites, seed=4)

    assert len(dealt) == sites
    for split, labels in enumerate(LABELS):
        rows = np.concatenate([parts[split] for parts in dealt])
        assert np.array_equal(np.sort(rows), np.arange(len(labels)))


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.3"])
def test_the_seed_alone_decides(text: str) -> None:
    partition = Partition.parse(text)
    first, again, other = (partition.deal(LABELS, 3, seed) for seed in (1, 1, 2))

    assert all(
        np.array_equal(a, b)
        for before, after in zip(first, again, strict=True)
        for a, b in zip(before, after, strict=True)
    )
    assert not np.array_equal(first[0][0], other[0][0])


def test_iid_sites_differ_by_one_image_at_most() -> None:
    sizes = {len(train) for train, _ in Partition.parse("iid").deal(LABELS, 7, 0)}

    assert max(sizes) - min(sizes) <= 1


def test_a_smaller_concentration_makes_sites_more_unlike() -> None:
    """By how far, summed over the sites, the class shares are from those of all."""

    def unlike(text: str) -> float:
        dealt = Partition.parse(text).deal(LABELS, 4, seed=0)
        shares = [np.bincount(LABELS[0][t], minlength=5) / len(t) for t, _ in dealt]
        return float(sum(np.abs(share - 0.2).sum() for share in shares))

    assert unlike("dirichlet:0.3") > 3 * unlike("dirichlet:100")


def test_a_site_is_tested_on_the_classes_it_learns() -> None:
    """Both splits follow one draw of shares, up to rounding."""
    for train, test in Partition.parse("dirichlet:0.3").deal(LABELS, 4, seed=0):
        learned, tested = (
            np.bincount(labels[rows], minlength=5) / each
            for labels, rows, each in zip(LABELS, (train, test), (60, 20), strict=True)
        )
        assert np.abs(learned - tested).max() < 0.06


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.001"])
def test_a_site_without_images_is_refused(text: str) -> None:
    few = (np.array([0, 0, 1, 1, 1]), np.array([0, 1]))

    with pytest.raises(DataError, match="too few images"):
        Partition.parse(text).deal(few, 4, seed=0)


def test_every_site_has_enough_to_learn_and_to_be_tested() -> None:
    for parts in Partition.parse("dirichlet:0.1").deal(LABELS, 5, seed=0):
        for part, least in zip(parts, LEAST.values(), strict=True):
            assert len(part) >= least


@pytest.mark.parametrize(
    "text", ["", "IID", "iid:1", "dirichlet", "dirichlet:0", "dirichlet:nan", "even"]
)
def test_another_partition_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="partition: expected iid"):
        Partition.parse(text)


def test_organisations_are_the_subfolders_and_npz_files(tmp_path: Path) -> None:
    (tmp_path / "north").mkdir()
    (tmp_path / "south.npz").touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").touch()

    assert ["north", "south"] == list(organisations(tmp_path))


def test_one_organisation_is_no_federation(tmp_path: Path) -> None:
    (tmp_path / "north").mkdir()

    with pytest.raises(DataError, match="at least two organisations"):
        organisations(tmp_path)


def test_classes_are_united_by_their_names() -> None:
    """Not by their numbers: an organisation may have pictures of some classes only."""
    images = np.zeros((3, 4, 4, 1), np.uint8)
    cats = dataset("cats", images, np.array([0, 1, 1]), ("10", "cat"))
    classes = united([cats.classes, ("2", "ape")])

    assert classes == ("2", "10", "ape", "cat")
    assert relabelled(cats, classes).tolist() == [1, 3, 3]


def test_what_is_taken_has_a_digest_of_its_own() -> None:
    images = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)
    whole = dataset("few", images, np.array([0, 1, 0]), ("a", "b"))
    part = take(whole, np.array([0, 2]))

    assert part.digest == dataset("x", images[::2], np.zeros(2, int), ("a", "b")).digest
