"""The measuring of many owners: it finds them all, and says what it took."""

import pytest

from orchestrator.bench.owners import MeasuringFailed, Plan, measure_owners


@pytest.mark.slow
def test_every_owner_is_found_though_few_are_in_memory() -> None:
    report = measure_owners(Plan(owners=200, hidden=64, patch=4, budget_mib=1))

    assert report["owners"] == 200
    # 200 embeddings of 12 KiB are 2.3 MiB.
    assert 0.9 < report["embeddings_mib"] <= 1
    assert report["any_owner_ms"]["median"] > 0
    assert report["peak_mib"] > 10


@pytest.mark.slow
def test_a_measuring_that_fails_is_said() -> None:
    with pytest.raises(MeasuringFailed):
        measure_owners(Plan(owners=1, hidden=0))
