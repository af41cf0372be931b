"""Attacks that need torch and minutes: run if asked for, and if not, that is said."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

import numpy as np

from core.leakage.material import Finding, Material, finding
from core.leakage.schemes import random_orthogonal as ours
from core.leakage.sent_pixels import sent_blocks, shown

# Public pictures that the search for a key descends on, and judges by.
_SEARCHED: Final = 8_000
# Unknown keys under which pictures are shown to a network, each under one of them.
_KEYS: Final = 5
_EPOCHS: Final = 3
# Public pictures that either needs at least, and the most numbers a picture may have.
_FEWEST: Final = 1_000
_LARGEST: Final = 3 * 52 * 52
_PICTURES: Final = {
    True: "public pictures with labels",
    False: "public pictures without labels: BatchNorm's statistics alone",
}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An attack that was not run on this material, and why."""

    name: str
    why: str


def left_out(name: str, material: Material) -> LeftOut | None:
    """What to say of an attack instead of its findings; None: it can be run."""
    crowd = 0 if material.crowd is None else len(material.crowd.pictures)
    reasons = {
        "it takes minutes: --thorough runs it": not material.thorough,
        "torch is not installed": find_spec("torch") is None,
        "there is no model: it needs --release, or a run": (
            name == MODEL_ONLY and material.served is None
        ),
        f"the pictures are larger than {_LARGEST:,} numbers": (
            name == LEARNT and material.own[0].size > _LARGEST
        ),
        f"it needs {_FEWEST:,} public pictures, there are {crowd:,}": (
            material.thorough and crowd < _FEWEST
        ),
    }
    true = [reason for reason, holds in reasons.items() if holds]
    return LeftOut(name, "; ".join(true)) if true else None


def model_alone(material: Material) -> Iterator[Finding]:
    """The key from the issued embedding and the backbone, with no picture sent."""
    # A computer without torch runs all other attacks.
    from core.leakage import model_only  # noqa: PLC0415

    served, crowd = material.served, material.crowd
    if served is None or crowd is None:
        return
    key = ours.draw(material.coordinates, material.generator(12))
    rng = material.generator(14)
    searched = crowd.pictures[:_SEARCHED]
    blocks = sent_blocks(material.coordinates, searched, rng)
    labels = None if crowd.labels is None else crowd.labels[:_SEARCHED]
    guesses = model_only.recover_key(
        material.embedding @ key.matrix.T,
        served,
        (blocks, labels),
        model_only.Search(seed=material.seed),
    )
    hidden = key.encrypt(material.own)
    yield finding(
        MODEL_ONLY,
        ours.NAME,
        f"no picture seen; {len(blocks):,} public pictures",
        f"the issued embedding, the backbone, {_PICTURES[labels is not None]}",
        original=material.own,
        seen=shown(material.coordinates, hidden),
        recovered=material.coordinates.pictures(hidden @ guesses[0].matrix),
    )


def learnt(material: Material) -> Iterator[Finding]:
    """A network trained under keys of the attacker's own, in both views."""
    from core.leakage import own_keys  # noqa: PLC0415
    from core.leakage.inversion import Training  # noqa: PLC0415

    if material.crowd is None:
        return
    own, coordinates = material.own, material.coordinates
    rng = material.generator(13)
    keys = [ours.draw(coordinates, rng) for _ in range(_KEYS)]
    hidden = np.concatenate(
        [keys[n % _KEYS].encrypt(own[n : n + 1]) for n in range(len(own))]
    )
    views = {
        "what was sent": own_keys.as_sent,
        "inner products of neighbouring blocks": own_keys.products,
    }
    for what, view in views.items():
        yield finding(
            LEARNT,
            ours.NAME,
            f"{what}, under {_KEYS} unknown keys",
            f"{len(material.crowd.pictures):,} public pictures; no key, no model",
            original=own,
            seen=shown(coordinates, hidden),
            recovered=own_keys.recover(
                hidden,
                material.crowd.pictures,
                coordinates,
                view,
                Training(_EPOCHS, seed=material.seed),
            ),
        )


MODEL_ONLY: Final = "model only"
LEARNT: Final = "network trained under own keys"
ATTACKS: Final[dict[str, Callable[[Material], Iterator[Finding]]]] = {
    MODEL_ONLY: model_alone,
    LEARNT: learnt,
}
