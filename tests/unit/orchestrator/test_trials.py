"""Releases tried on a share of the requests: what is counted, and planted faults."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.console import FAILED, exit_code
from orchestrator.simulation.report.canary import COLOURS, versions_over_time
from orchestrator.simulation.rotation_figures import measure, require_unbroken
from orchestrator.simulation.trial_figures import (
    TrialBroken,
    Tried,
    measure_trials,
    require_tried,
)
from orchestrator.simulation.trials import trials
from tests.unit.orchestrator.story import IMAGES, Story, plain_logits

SHARE = 0.25
OWNERS = ("anna", "ben")
# A second beside version 1, and then rolled back; another one, and then promoted.
ORDERS = (
    (1000, "release", 2),
    (2000, "roll back", 2),
    (3000, "release", 3),
    (4000, "promote", 3),
)


def model_at(at: int, number: int) -> int:
    """Which version the request that ends at a moment asks; of four one is tried."""
    tried = {1: 2, 3: 3}.get(at // 1000)
    if tried is not None:
        return tried if number % 4 == 3 else 1
    return 3 if at >= 4000 else 1


def good_trials() -> Story:
    """Both owners ask every 50 ms, and each request takes 40 ms."""
    story = Story()
    for owner in OWNERS:
        story.state(-900, owner, 1, "pre_active")
        story.state(-800, owner, 1, "active")
    for at, action, version in ORDERS:
        story.order(at, action, version=version)
    for number, at in enumerate(range(45, 5000, 50)):
        for owner in OWNERS:
            first = number * 2 % IMAGES
            story.answer(at, owner, 1, first=first, model=model_at(at, number))
    return story


@pytest.fixture
def story() -> Story:
    return good_trials()


def labels(owner: str) -> np.ndarray:
    """The first version is right about every picture."""
    right: np.ndarray = plain_logits(owner, 1).argmax(axis=1)
    return right


def figures_of(story: Story, share: float = SHARE) -> dict[str, Any]:
    known = {owner: labels(owner) for owner in story.requests}
    return measure_trials(Tried(story.told(), known), share)


def broken(story: Story) -> str:
    """What the run would end with."""
    with pytest.raises(TrialBroken) as caught:
        require_tried(figures_of(story))
    return str(caught.value)


def test_a_trial_lasts_from_a_release_to_the_next_order_about_an_alias(
    story: Story,
) -> None:
    """The champion of the second trial is that of the first: it was rolled back."""
    found = [(t.champion, t.candidate, t.outdated) for t in trials(story.told())]

    assert [(1, 2, 2), (1, 3, 1)] == found


def test_what_is_promoted_is_the_champion_of_the_next_trial(story: Story) -> None:
    story.order(4500, "release", version=4)
    *_, last = trials(story.told())

    assert (3, 4, None) == (last.champion, last.candidate, last.ended)


def test_the_share_is_counted_from_the_first_answer_by_the_candidate(
    story: Story,
) -> None:
    """From number 23 on, at 1195 ms, the next 16 were begun before the end."""
    first, second = figures_of(story)["trials"]

    assert (2 * 16, SHARE, "rolled back") == (
        *(first["requests"], first["share_seen"]),
        first["ended"],
    )
    assert (SHARE, "promoted") == (second["share_seen"], second["ended"])
    assert {5} == {owner["answered_by_candidate"] for owner in first["owners"]}


def test_a_request_that_was_under_way_when_the_end_was_ordered_counts_not(
    story: Story,
) -> None:
    """It began when the order had been given; the one before it counts."""
    before = figures_of(story)["trials"][0]["requests"]
    story.answer(2041, "anna", 1, model=2)

    assert before == figures_of(story)["trials"][0]["requests"]


def test_versions_are_compared_on_the_pictures_that_both_answered(
    story: Story,
) -> None:
    """The slow obvious way: from the plain logits, picture by picture."""
    trial = figures_of(story)["trials"][0]
    same = {
        (owner, request.first + row)
        for owner in OWNERS
        for request in story.requests[owner]
        if request.model_version == 2
        for row in range(request.images)
    }
    alike = sum(
        plain_logits(owner, 1)[picture].argmax()
        == plain_logits(owner, 2)[picture].argmax()
        for owner, picture in same
    )
    champion, candidate = trial["versions"]

    assert len(same) == trial["same_pictures"]
    assert alike / len(same) == trial["agreement"] < 1.0
    # The first version is right about all: the other one where it agrees.
    assert (1.0, trial["agreement"]) == (champion["accuracy"], candidate["accuracy"])
    assert 1.0 == champion["plain_accuracy"] > candidate["plain_accuracy"]


def test_each_version_is_held_against_its_own_plain_model(story: Story) -> None:
    near = plain_logits("anna", 2)[:2] + np.float32(0.0005)
    story.answer(1995, "anna", 1, model=2, logits=near)
    champion, candidate = figures_of(story)["trials"][0]["versions"]

    require_unbroken(measure(story.told()))
    assert 0.0 == champion["max_logit_difference"]
    assert candidate["max_logit_difference"] == pytest.approx(0.0005, abs=1e-6)


def test_another_versions_answer_is_misrouted(story: Story) -> None:
    story.answer(1995, "anna", 1, model=2, logits=plain_logits("anna", 1)[:2])
    story.answer(1996, "anna", 1, model=7, logits=plain_logits("anna", 1)[:2])

    assert 2 == measure(story.told())["misrouted"]


def test_an_answer_on_record_under_another_version_is_unrecorded(story: Story) -> None:
    story.bodies[-1]["subject"]["model_version"] = 2

    assert 1 == measure(story.told())["unrecorded"]


def test_a_trial_as_it_was_ordered_breaks_nothing(story: Story) -> None:
    require_tried(figures_of(story))
    require_unbroken(measure(story.told()))


def test_an_owner_that_the_candidate_never_answered_is_found(story: Story) -> None:
    story.answer(1500, "cleo", 1)
    story.answer(4500, "cleo", 1, model=3)

    assert broken(story) == (
        "version 2 never answered cleo; version 3 never answered cleo"
    )
    require_tried(figures_of(story, share=0.0))


@pytest.mark.parametrize(
    ("model", "ended"), [(2, 2010), (1, 4010)], ids=["rolled back", "promoted"]
)
def test_a_version_that_lost_is_asked_for_a_second_at_most(
    story: Story, model: int, ended: int
) -> None:
    """Counted until the request begins: how long it takes is another matter."""
    story.answer(ended + 1000 + 40, "anna", 1, model=model)
    require_tried(figures_of(story))
    story.answer(ended + 1001 + 40, "anna", 1, model=model)

    assert "1001 ms later" in broken(story)


def test_nothing_was_released_and_there_is_nothing_to_compare() -> None:
    story = Story()
    story.answer(100, "anna", 1)

    assert {} == figures_of(story) == figures_of(Story())
    require_tried({})


def test_an_error_of_a_trial_fails_the_run() -> None:
    assert FAILED == exit_code(TrialBroken("late"))


def test_every_answer_is_in_the_rate_of_its_version(story: Story) -> None:
    rate = figures_of(story)["rate"]["versions"]
    answered = [r.model_version for each in story.requests.values() for r in each]

    assert {str(version): answered.count(version) for version in (1, 2, 3)} == {
        version: sum(counts) for version, counts in rate.items()
    }


def test_the_figure_has_a_colour_for_each_version(story: Story) -> None:
    rotation = measure(story.told())
    rate = figures_of(story)["rate"]
    drawn = versions_over_time(rate, rotation["orders"], rotation["seconds"])

    assert "Answers by the version of the model" in drawn
    assert all(f"fill: {colour}" in drawn for colour in COLOURS[:3])
    assert f"fill: {COLOURS[3]}" not in drawn


def test_every_figure_is_documented(story: Story) -> None:
    """In `docs/report.md`, by its name."""
    documented = Path("docs/report.md").read_text()
    figures = figures_of(story)
    trial = figures["trials"][0]
    parts = [figures, trial, trial["versions"][0], trial["owners"][0], figures["rate"]]
    names = {name for part in parts for name in part}

    assert set() == {name for name in names if f"`{name}`" not in documented}
