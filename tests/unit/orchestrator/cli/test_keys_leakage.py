"""`keymixer keys show` prints leakage cards, and what their figures are worth."""

from typing import Any

import pytest

from core.manifest import Manifest
from orchestrator.federation import Policies
from orchestrator.leakage.cards import cards_of, in_words
from protos import registry_pb2
from tests.unit.core.test_card import CARD
from tests.unit.core.test_manifest import MANIFEST, SHIELDS, with_shield
from tests.unit.orchestrator.cli.desk import Desk, Terminal
from tests.unit.orchestrator.cli.test_keys import _three
from tests.unit.orchestrator.office import manifest_bytes

LOWER_BOUND = "a lower bound on an attacker"


def _issued(**changed: Any) -> registry_pb2.IssuedModel:
    fields: dict[str, Any] = {
        "key_id": "archive.digits",
        "key_version": 3,
        "model": "digits",
        "model_version": 1,
        "state": "live",
        "images": 1_000,
        "blocks": 64_000,
        "total_images": 12_345,
        "total_blocks": 790_080,
    }
    return registry_pb2.IssuedModel(**fields | changed)


def _release(**changed: Any) -> registry_pb2.ModelVersion:
    manifest = manifest_bytes("digits", card=CARD)
    fields: dict[str, Any] = {"name": "digits", "version": 1, "manifest": manifest}
    return registry_pb2.ModelVersion(**fields | changed)


def _desk(desk: Desk, *issued: registry_pb2.IssuedModel, **release: Any) -> None:
    _three(desk)
    desk.says(registry_pb2.ListIssuedModelsResponse(issued=issued))
    desk.says(registry_pb2.ListModelVersionsResponse(versions=[_release(**release)]))


def test_a_card_says_scheme_rank_exposure_attacks_and_that_it_is_a_lower_bound(
    desk: Desk, terminal: Terminal
) -> None:
    _desk(desk, _issued())
    shown = terminal.text("keys", "show", "archive")

    assert f"Every figure is {LOWER_BOUND}." in shown
    for told in (
        "Leakage card of digits version 1 under key version 3",
        "random orthogonal",
        "D = 48; 14 directions hold 99 %",
        "at least 1,000 images, 64,000 blocks",
        "at least 12,345 images, 790,080 blocks, 56,434.3 blocks a direction",
        "SSIM 0.59 (0.39 to 0.77), 18.8 dB, 24 pictures",
        "secret",
    ):
        assert told in shown


def test_a_program_gets_the_same(desk: Desk, terminal: Terminal) -> None:
    _desk(desk, _issued(), public_embedding=True)
    (one,) = terminal.json("keys", "show", "archive")["issued"]
    card = one["leakage"]

    assert LOWER_BOUND in card["lower_bound"]
    assert (card["dimension"], card["effective_rank"]) == (48, 14)
    assert (card["images"], card["blocks"]) == (1_000, 64_000)
    assert (card["total_images"], card["total_blocks"]) == (12_345, 790_080)
    assert card["ratio"] == pytest.approx(790_080 / 14)
    assert [each["name"] for each in card["attacks"]] == [
        *("norm map", "known plaintext")
    ]
    assert card["embedding"].startswith("public")
    assert (card["measured_images"], card["public_images"]) == (24, 1000)


def test_a_release_that_nobody_measured_says_so(desk: Desk, terminal: Terminal) -> None:
    _desk(desk, _issued(), manifest=manifest_bytes("digits"))
    shown = terminal.text("keys", "show", "archive")
    (one,) = terminal.json("keys", "show", "archive")["issued"]

    assert "directions not measured" in shown
    assert LOWER_BOUND in shown
    assert one["leakage"]["effective_rank"] is None
    assert one["leakage"]["ratio"] is None
    assert one["leakage"]["attacks"] == []


def test_what_is_gone_from_the_server_has_a_card_for_programs_alone(
    desk: Desk, terminal: Terminal
) -> None:
    _desk(desk, _issued(state="gone"))

    assert "Leakage card" not in terminal.text("keys", "show", "archive")
    assert terminal.json("keys", "show", "archive")["issued"][0]["leakage"]


def test_the_rules_that_a_card_breaks_are_shown_with_what_they_do() -> None:
    rules = Policies.model_validate(
        {
            "leakage": [
                {"when": "images", "above": 12_344, "then": "warn"},
                {"when": "ratio", "above": 1, "then": "fresh_release"},
                {"when": "missing_card", "then": "refuse"},
            ]
        }
    ).leakage
    (card,) = cards_of([_issued()], [_release()], rules)
    assert card is not None
    told = in_words(card)

    assert [each["then"] for each in card["rules"]] == ["warn", "fresh_release"]
    assert "12,345, above 12,344" in told["rule 1: warn"]
    assert "above 1" in told["rule 2: fresh_release"]


def test_an_owner_is_not_told_what_others_sent() -> None:
    """Its own counts are; the cumulative ones have no number in what it is given."""
    mine = _issued()
    mine.ClearField("total_images")
    mine.ClearField("total_blocks")
    (card,) = cards_of([mine], [_release()], [])
    assert card is not None

    assert card["total_images"] is card["ratio"] is None
    assert in_words(card)["seen under all keys"] == ""
    assert in_words(card)["seen under the key"]


def test_a_shield_is_named_though_nobody_measured_it() -> None:
    manifest: Manifest = with_shield(SHIELDS[1])
    assert MANIFEST.shield is None
    release = _release(manifest=manifest.to_bytes())
    (card,) = cards_of([_issued()], [release], [])
    assert card is not None

    assert card["scheme"] == "random orthogonal, highpass:9"
    assert card["dimension"] == 39


@pytest.mark.parametrize("images", [0, 1, 1_000_000])
def test_no_card_calls_a_number_of_pictures_safe(images: int) -> None:
    (card,) = cards_of([_issued(total_images=images)], [_release()], [])
    assert card is not None

    assert "safe" not in " ".join([*in_words(card), *in_words(card).values()]).lower()
