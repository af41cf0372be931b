"""What `keymixer bench serving` says is made of what was measured, round by round."""

from pathlib import Path

import pytest

from orchestrator.bench import serving
from orchestrator.bench.comparison import Series
from orchestrator.bench.driving import Measured
from orchestrator.bench.serving import ratios
from orchestrator.bench.serving_figure import write_figure

OURS = (
    serving.OURS,
    serving.ONE_OWNER,
    serving.MIXED,
    serving.BATCHES,
    serving.ONE_CALLER,
    serving.NO_AUDIT,
    serving.NO_TLS,
    serving.BARE,
    serving.BARE_ONE,
    serving.EAGER,
)


def series(name: str, *rates: float, cpu: float = 100.0, p99: float = 9.0) -> Series:
    measured = [Measured(rate, cpu, p99 / 3, p99) for rate in rates]
    return Series(name, "", "gRPC", 1, measured)


def ours(**changed: Series) -> dict[str, Series]:
    found = {name: series(name, 100.0, 100.0, 100.0) for name in OURS}
    return found | {one.name: one for one in changed.values()}


def test_a_ratio_is_the_median_of_each_rounds_and_not_of_all() -> None:
    # A slow second round slows both; the medians alone would say 200 to 100.
    known = ours(
        a=series(serving.OURS, 300.0, 30.0, 200.0),
        b=series(serving.NO_AUDIT, 300.0, 60.0, 100.0),
    )

    assert ratios(known, {})["audit_on_over_off"] == 1.0


def test_the_best_peer_is_the_fastest_and_the_thriftiest_is_asked_for_cpu() -> None:
    known = ours(a=series(serving.OURS, 90.0, 90.0, 90.0, cpu=60.0))
    rivals = {
        "fast": series("fast", 45.0, 45.0, 45.0, cpu=10.0),
        "thrifty": series("thrifty", 9.0, 9.0, 9.0, cpu=20.0),
    }
    found = ratios(known | rivals, rivals)

    assert found["best_peer"] == "fast"
    assert found["served_over_best_peer"] == 2.0
    assert found["served_per_cpu_over_best_peer"] == 3.0


def test_without_peers_nothing_is_said_of_them() -> None:
    found = ratios(ours(), {})

    assert found["best_peer"] is None
    assert found["served_over_best_peer"] is None


def test_one_callers_slowest_is_held_against_one_bare_forward() -> None:
    known = ours(
        a=series(serving.ONE_CALLER, 1.0, p99=12.0),
        b=series(serving.BARE_ONE, 1.0, p99=6.0),
    )

    # p99 of the one, p50 (a third of 6 ms) of the other.
    assert ratios(known, {})["p99_over_bare"] == 6.0


@pytest.mark.parametrize("missing", ["served_over_best_peer", "batched_over_bare"])
def test_the_promised_names_are_there(missing: str) -> None:
    assert missing in ratios(ours(), {})


def test_the_figure_names_everybody(tmp_path: Path) -> None:
    rows = [each.row(series("bare", 100.0)) for each in (series("litserve", 12.0),)]
    write_figure({"rows": rows}, tmp_path / "serving.svg")

    assert "litserve" in (tmp_path / "serving.svg").read_text()
