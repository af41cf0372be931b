"""Leakage cards as an operator is shown them: by `keymixer keys show`, in a report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from core.card import LOWER_BOUND, Figure
from core.errors import KeymixerError
from core.manifest import Manifest
from orchestrator.federation import LeakageRule
from orchestrator.registry.cards import UNMEASURED, IssuedCard
from orchestrator.registry.sight import Seen
from protos.registry_pb2 import IssuedModel, ModelVersion

Fields = dict[str, Any]

SENTENCE: Final = f"Every figure is {LOWER_BOUND}."


def cards_of(
    issued: Sequence[IssuedModel],
    models: Sequence[ModelVersion],
    rules: Sequence[LeakageRule],
) -> list[Fields | None]:
    """The card of each issued model, in their order, as fields of JSON.

    None stands where its release is not among `models`, or cannot be read.
    """
    by_name = {(each.name, each.version): each for each in models}
    return [
        _fields(one, by_name.get((one.model, one.model_version)), rules)
        for one in issued
    ]


def in_words(card: Mapping[str, Any]) -> dict[str, str]:
    """A card's fields for the eye, a line each."""
    rank, ratio, attacks = card["effective_rank"], card["ratio"], card["attacks"]
    known = f"{rank} directions hold 99 %" if rank else f"directions {UNMEASURED}"
    each = "" if ratio is None else f", {ratio:,.1f} blocks a direction"
    lines = {
        "scheme": card["scheme"],
        "block": f"D = {card['dimension']}; {known}",
        "plain embedding": card["embedding"],
        "seen under the key": _seen(card["images"], card["blocks"]),
        "seen under all keys": _seen(card["total_images"], card["total_blocks"]) + each,
    }
    if not attacks:
        lines["attacks"] = UNMEASURED
    for attack in attacks:
        lines[f"{attack['name']}, {attack['setting']}"] = figure_in_words(attack)
    for number, broken in enumerate(card["rules"], start=1):
        lines[f"rule {number}: {broken['then']}"] = broken["because"]
    return lines


def figure_in_words(attack: Mapping[str, Any]) -> str:
    """What an attack recovered, such as `SSIM 0.95 (0.90 to 0.98), 30.1 dB, 24 ...`."""
    count = attack["images"]
    return (
        f"SSIM {attack['ssim']:.2f} ({attack['ssim_low']:.2f} to "
        f"{attack['ssim_high']:.2f}), {attack['psnr']:.1f} dB, "
        f"{count:,} picture{'' if count == 1 else 's'}"
    )


def _seen(images: int | None, blocks: int | None) -> str:
    if images is None or blocks is None:
        return ""
    return f"at least {images:,} images, {blocks:,} blocks"


def _fields(
    one: IssuedModel, release: ModelVersion | None, rules: Sequence[LeakageRule]
) -> Fields | None:
    if release is None:
        return None
    try:
        manifest = Manifest.from_bytes(release.manifest)
    except KeymixerError:
        return None
    told = one.HasField("total_images") and one.HasField("total_blocks")
    card = IssuedCard.of(
        manifest,
        public_embedding=release.public_embedding,
        total=Seen(one.total_images, one.total_blocks),
        under_key=Seen(one.images, one.blocks),
    )
    return {
        "lower_bound": SENTENCE,
        "scheme": card.scheme,
        "dimension": card.dimension,
        "effective_rank": card.effective_rank,
        "embedding": _embedding(release),
        "images": one.images,
        "blocks": one.blocks,
        "total_images": one.total_images if told else None,
        "total_blocks": one.total_blocks if told else None,
        "ratio": card.ratio if told and card.measured else None,
        **_measured(card),
        "rules": [
            {"when": rule.when, "then": rule.then, "because": why}
            for rule, why in card.broken(rules)
        ],
    }


def _measured(card: IssuedCard) -> Fields:
    measured = card.measured
    attacks: tuple[Figure, ...] = measured.attacks if measured else ()
    return {
        "measured_images": measured.images if measured else 0,
        "public_images": measured.public_images if measured else 0,
        "attacks": [asdict(each) for each in attacks],
    }


def _embedding(release: ModelVersion) -> str:
    if release.public_embedding:
        return "public: keys for it hide nothing from the server"
    if release.exposed_at_ms:
        return "presumed known: a key has leaked"
    return "secret"
