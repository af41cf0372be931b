"""The report's parts: what parties hold in words, figures as SVG, pictures inside."""

from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.registry.lifecycle import KeyState
from orchestrator.simulation.report.figures import accuracies, timeline, training_curve
from orchestrator.simulation.report.key_lives import COLOURS, key_lives
from orchestrator.simulation.report.page import render_cards
from orchestrator.simulation.report.pictures import data_uri
from orchestrator.simulation.report.seen import COLUMNS, PROMISE, holdings
from orchestrator.simulation.rotation_figures import measure
from tests.unit.orchestrator.story import Story, good_story


def test_what_a_party_holds_is_told_in_words() -> None:
    held = ["identity.key", "keys/lab/1.key", "keys/lab/2.key", "settings.json"]

    assert "its identity, own keys, encrypted (2)" == holdings(map(Path, held))


def test_a_file_nobody_expected_is_told_by_its_name() -> None:
    """A leak would show in the report, not hide behind `and 3 more`."""
    assert "notes/embedding.npy" in holdings([Path("notes/embedding.npy")])


def test_the_promise_has_a_cell_for_every_party() -> None:
    assert {len(COLUMNS)} == {len(cells) for cells in PROMISE.values()}


def test_the_training_curve_says_the_last_accuracy() -> None:
    curve = [
        {"epoch": 1, "loss": 1.5, "accuracy": 0.5},
        {"epoch": 2, "loss": 1.0, "accuracy": 0.731},
    ]

    drawn = training_curve(curve)

    assert drawn.startswith("<svg")
    assert "Training curve" in drawn


def test_bars_are_drawn_for_the_three_accuracies() -> None:
    drawn = accuracies(
        {"plain_accuracy": 0.9, "keyed_accuracy": 0.9, "wrong_key_accuracy": 0.1}
    )

    assert "Accuracy of the plain, keyed and wrong-key answers" in drawn


def test_the_timeline_leaves_out_what_was_before_the_servers() -> None:
    """Minutes of training would leave no room for the seconds that follow."""
    seconds = {"data": 1.0, "train": 100.0, "start": 2.0, "total": 103.0}
    early = {"at_s": 50.0, "role": "model-provider", "party": "early", "text": "trains"}
    late = {"at_s": 102.0, "role": "operator", "party": "late", "text": "asks"}

    with_both = timeline([early, late], seconds)
    only_late = timeline([late], seconds)

    assert len(only_late) == len(with_both)


def test_every_state_of_a_key_version_has_a_colour_of_its_own() -> None:
    assert set(KeyState) == set(COLOURS)
    assert len(set(COLOURS.values())) == len(COLOURS)


def _bars(svg: str, state: KeyState) -> int:
    """How many shapes are filled with the colour of a state; one is in the legend."""
    return svg.count(f"fill: {COLOURS[state]}") - 1


def test_the_lives_are_drawn_state_by_state() -> None:
    """Of both owners: version 1 to its end, version 2 until ben's is revoked."""
    drawn = key_lives(measure(good_story().told()))

    assert "The life of every key version" in drawn
    assert {
        KeyState.PRE_ACTIVE: 2,
        KeyState.ACTIVE: 4,
        KeyState.RETIRING: 2,
        KeyState.DESTROY_SCHEDULED: 3,
        KeyState.DESTROYED: 2,
    } == {state: _bars(drawn, state) for state in KeyState if COLOURS[state] in drawn}


def test_the_lives_of_eight_owners_make_a_taller_figure() -> None:
    """Every version has a row of its own, as high as the others'."""
    few = key_lives(measure(good_story().told()))
    many = key_lives(measure(_crowd(8).told()))

    assert _height(few) + 8 * 10 < _height(many)


def _crowd(count: int) -> Story:
    story = Story()
    for number in range(count):
        story.state(0, f"owner-{number}", 1, "active")
        for at in (1000, 9000):
            story.answer(at, f"owner-{number}", 1)
    story.order(2000, "rotate")
    return story


def _height(svg: str) -> float:
    return float(svg.split('height="')[1].split("pt", maxsplit=1)[0])


CARD: dict[str, Any] = {
    "key_id": "lab.cells",
    "key_version": 1,
    "model": "cells",
    "model_version": 2,
    "state": "live",
    "lower_bound": "",
    "scheme": "random <orthogonal>",
    "dimension": 48,
    "effective_rank": 14,
    "ratio": 45.71,
    "embedding": "secret",
    "images": 10,
    "blocks": 640,
    "total_images": 10,
    "total_blocks": 640,
    "attacks": [
        {
            "name": "norm map",
            "setting": "one picture",
            "images": 24,
            "psnr": 18.8,
            "ssim": 0.59,
            "ssim_low": 0.39,
            "ssim_high": 0.77,
        }
    ],
    "rules": [{"when": "images", "then": "warn", "because": "10, above 9"}],
}


def test_leakage_cards_are_told_with_what_their_figures_are_worth() -> None:
    other = CARD | {"key_id": "ward.cells", "images": 7}
    page = " ".join(render_cards([CARD, other]).split())

    assert page.count("<h3>cells version 2</h3>") == 1
    for told in (
        "Every figure is a lower bound on an attacker.",
        "random &lt;orthogonal&gt;",
        "effective rank 14",
        "at least 10 images, 640 blocks, 45.7 blocks a direction",
        "SSIM 0.59 (0.39 to 0.77), 18.8 dB, 24 pictures",
        "rule: warn",
        "ward.cells",
    ):
        assert told in page
    assert "safe" not in page


def test_a_card_that_nobody_measured_says_so() -> None:
    bare = CARD | {"effective_rank": None, "ratio": None, "attacks": [], "rules": []}
    page = render_cards([bare])

    assert "effective rank not measured" in page
    assert "<th>attacks</th><td>not measured</td>" in page
    assert "a lower bound on an attacker" in page


def test_a_picture_stands_in_the_page_itself() -> None:
    grey = np.zeros((4, 4, 1), np.uint8)
    colour = np.zeros((4, 4, 3), np.uint8)

    for image in (grey, colour):
        assert data_uri(image).startswith("data:image/png;base64,")
