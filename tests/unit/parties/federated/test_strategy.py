"""Each strategy against the slow obvious way; moments are averaged under all."""

from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from core.errors import ConfigurationError
from parties.model_provider.federated.plan import FederatedPlan
from parties.model_provider.federated.strategy import Round, SiteRound, Standing
from tests.unit.parties.federated.fake_sites import MEAN, VARIANCE, play, state

BEGIN = Standing(0, state(0))
ANSWERS = {number: state(number) for number in (1, 2, 3)}
WEIGHTS = [10, 20, 30]


def stacked(name: str) -> ndarray:
    return np.stack([ANSWERS[number][name] for number in (1, 2, 3)]).astype(np.float64)


def plan(strategy: str, **changes: Any) -> FederatedPlan:
    return FederatedPlan(strategy=strategy, sites=3, **changes)


def pooled() -> dict[str, ndarray]:
    """The moments of all images, from NumPy's means."""
    means, variances = stacked(MEAN), stacked(VARIANCE)
    mean = np.average(means, axis=0, weights=WEIGHTS)
    second = np.average(variances + means**2, axis=0, weights=WEIGHTS)
    return {MEAN: mean, VARIANCE: second - mean**2}


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedadam"])
def test_moments_are_averaged_by_the_number_of_images(strategy: str) -> None:
    """Also where Adam steps: a step of it on a variance would be nonsense."""
    ((standing, _),) = play(plan(strategy), ANSWERS, BEGIN)

    for name, expected in pooled().items():
        np.testing.assert_allclose(standing.state[name], expected, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_weights_are_averaged_by_the_number_of_images(strategy: str) -> None:
    ((standing, _),) = play(plan(strategy), ANSWERS, BEGIN)
    expected = np.average(stacked("head.weight"), axis=0, weights=WEIGHTS)

    np.testing.assert_allclose(standing.state["head.weight"], expected, rtol=1e-5)


def test_fedadam_steps_as_the_paper_says() -> None:
    """Reddi et al., arXiv 2003.00295, algorithm 2, with Adam's correction."""
    told = play(plan("fedadam", server_lr=0.05), ANSWERS, BEGIN, rounds=2)
    weight = BEGIN.state["head.weight"].astype(np.float64)
    average = np.average(stacked("head.weight"), axis=0, weights=WEIGHTS)
    first, second = np.zeros_like(weight), np.zeros_like(weight)

    for number, (standing, _) in enumerate(told, start=1):
        gradient = average - weight
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        rate = 0.05 * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
        weight = weight + rate * first / (np.sqrt(second) + 1e-3)
        np.testing.assert_allclose(standing.state["head.weight"], weight, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["fedmedian", "fedtrimmedavg"])
def test_a_robust_strategy_takes_the_middle_of_three(strategy: str) -> None:
    ((standing, _),) = play(plan(strategy), ANSWERS, BEGIN)
    means = np.median(stacked(MEAN), axis=0)
    seconds = np.median(stacked(VARIANCE) + stacked(MEAN) ** 2, axis=0)
    expected = {
        "head.weight": np.median(stacked("head.weight"), axis=0),
        MEAN: means,
        VARIANCE: seconds - means**2,
    }

    for name, array in expected.items():
        np.testing.assert_allclose(standing.state[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", ["fedmedian", "fedtrimmedavg"])
def test_one_site_that_lies_cannot_move_a_robust_model_far(strategy: str) -> None:
    lying = {**ANSWERS, 3: state(3, shift=1e6)}
    ((standing, _),) = play(plan(strategy), lying, BEGIN)
    ((plain, _),) = play(plan("fedavg"), lying, BEGIN)

    assert max(np.abs(a).max() for a in standing.state.values()) < 20
    assert np.abs(plain.state["head.weight"]).max() > 1e5


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedmedian"])
def test_rounds_go_on_where_they_stood(strategy: str) -> None:
    """Two rounds at once, and one after the other with all that was kept in between."""
    _, (whole, _) = play(plan(strategy), ANSWERS, BEGIN, rounds=2)
    ((between, _),) = play(plan(strategy), ANSWERS, BEGIN)
    ((resumed, told),) = play(plan(strategy), ANSWERS, between)

    assert (resumed.round, told.number) == (2, 2)
    for kind in ("state", "memory"):
        expected, got = getattr(whole, kind), getattr(resumed, kind)
        assert expected.keys() == got.keys()
        for name, array in expected.items():
            assert np.array_equal(array, got[name]), name


def test_a_round_tells_what_each_site_gave() -> None:
    ((_, told),) = play(plan("fedavg"), ANSWERS, BEGIN)

    assert [
        SiteRound("site-1", 10, 1.0, 2, 0.1, 10),
        SiteRound("site-2", 20, 1.0, 2, 0.2, 20),
        SiteRound("site-3", 30, 1.0, 2, 0.3, 30),
    ] == list(told.sites)
    assert told.batches == 6
    assert told.accuracy == pytest.approx((1 + 4 + 9) / 60)


def test_nobody_tested_is_no_accuracy() -> None:
    assert Round(1, (SiteRound("a", 10, 0.5, 1),)).accuracy == 0.0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"sites": 1}, "sites"),
        ({"rounds": 0}, "rounds"),
        ({"min_sites": 4}, "min_sites"),
        ({"strategy": "fedsum"}, "strategy"),
        ({"optimiser": "lion"}, "optimiser"),
        ({"strategy": "fedmedian", "min_sites": 2}, "fedmedian"),
        ({"strategy": "fedtrimmedavg", "trim": 0.2}, "trim"),
        ({"strategy": "fedtrimmedavg", "trim": 0.5}, "trim"),
        ({"proximal_mu": 0.0}, "proximal_mu"),
        ({"partition": "even"}, "partition"),
        ({"batch": 0}, "batch"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_name(
    wrong: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        FederatedPlan(**{"sites": 3, **wrong})


def test_a_plan_survives_flowers_configuration() -> None:
    asked = FederatedPlan(sites=4, strategy="fedprox", flip=False, seed=3)

    assert FederatedPlan.read({**asked.to_config(), "folder": "/p"}) == asked


def test_a_configuration_without_a_field_is_refused_by_name() -> None:
    config = FederatedPlan().to_config()
    del config["max-lr"]

    with pytest.raises(ConfigurationError, match="max-lr"):
        FederatedPlan.read(config)
