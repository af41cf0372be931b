"""The measuring of many owners: a server answers them, and it says what that took."""

import pytest
from rich.console import Console

from orchestrator.bench import owners
from orchestrator.bench.owners import MeasuringFailed, Plan, measure_owners
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import ProcessFailed


@pytest.mark.slow
@pytest.mark.heavy
def test_owners_are_answered_though_few_embeddings_are_in_memory() -> None:
    plan = Plan(owners=120, hidden=64, patch=4, budget_mib=1, depth=1, asked=5)
    report = measure_owners(plan, Narrator(Console(quiet=True)))

    assert (report["owners"], report["asked"]) == (120, 5)
    assert report["peak_mib"] >= report["peak_at_start_mib"] > 50
    assert report["cold_ms"]["median"] > 0
    assert report["warm_ms"]["median"] > 0


def test_a_process_that_ends_is_a_measuring_that_failed() -> None:
    with pytest.raises(MeasuringFailed, match="crowd"), owners._failures():
        raise ProcessFailed("crowd ended")
