"""A leakage card travels in a manifest, has one form, and says nothing impossible."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from core.canonical import canonical
from core.card import LOWER_BOUND, Card, Figure
from core.errors import CorruptFileError
from core.manifest import Manifest
from tests.unit.core.test_manifest import MANIFEST

NORMS = Figure("norm map", "one picture", 24, 18.8, 0.59, 0.39, 0.77)
CARD = Card(
    scheme="random orthogonal",
    effective_rank=14,
    images=24,
    public_images=1000,
    attacks=(NORMS, Figure("known plaintext", "D blocks", 24, 100.0, 1.0, 1.0, 1.0)),
)
MEASURED = replace(MANIFEST, leakage=CARD)


def test_a_card_survives_and_the_signed_bytes_are_those_that_are_written_again() -> (
    None
):
    data = MEASURED.to_bytes()

    assert Manifest.from_bytes(data) == MEASURED
    assert Manifest.from_bytes(data).to_bytes() == data


def test_a_release_that_nobody_measured_says_so_by_saying_nothing() -> None:
    """As all releases from before there were cards."""
    assert Manifest.from_bytes(MANIFEST.to_bytes()).leakage is None


def test_the_strongest_attack_is_the_one_that_recovers_most() -> None:
    assert CARD.strongest.name == "known plaintext"


def test_the_sentence_is_the_one_that_is_asked_for() -> None:
    assert LOWER_BOUND == "a lower bound on an attacker"


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(MEASURED.to_bytes())
    change(document["leakage"])
    return canonical(document)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.clear(),
        lambda card: card.update(colour="red"),
        lambda card: card.pop("scheme"),
        lambda card: card.update(scheme=""),
        lambda card: card.update(scheme="\x1b[31m"),
        lambda card: card.update(effective_rank=0),
        lambda card: card.update(effective_rank=49),
        lambda card: card.update(effective_rank=True),
        lambda card: card.update(images=0),
        lambda card: card.update(attacks=[]),
        lambda card: card.update(attacks=card["attacks"] * 20),
        lambda card: card.update(attacks=["norm map"]),
        lambda card: card["attacks"][0].update(psnr=100.1),
        lambda card: card["attacks"][0].update(psnr=-1),
        lambda card: card["attacks"][0].update(ssim=1.01),
        lambda card: card["attacks"][0].update(ssim_low=-1.01),
        lambda card: card["attacks"][0].update(ssim_high="high"),
        lambda card: card["attacks"][0].update(images=0),
        lambda card: card["attacks"][0].update(name="x" * 201),
        lambda card: card["attacks"][0].pop("setting"),
    ],
)
def test_a_card_that_cannot_be_is_refused(
    change: Callable[[dict[str, Any]], None],
) -> None:
    with pytest.raises(CorruptFileError):
        Manifest.from_bytes(changed(change))


@pytest.mark.parametrize("value", [None, [], "not measured", 1])
def test_no_card_is_said_by_leaving_it_out(value: Any) -> None:
    document = json.loads(MANIFEST.to_bytes()) | {"leakage": value}

    with pytest.raises(CorruptFileError, match="leakage"):
        Manifest.from_bytes(canonical(document))


def test_figures_that_are_no_numbers_are_no_figures() -> None:
    with pytest.raises(CorruptFileError):
        replace(NORMS, psnr=float("nan"))
    with pytest.raises(CorruptFileError):
        replace(NORMS, ssim=float("nan"))
