"""The report's `shield`: what is recovered by whoever has the key, knowing the shield.

Without a shield the key opens everything. With one, the key is undone, and the rest is
estimated from all of a picture's blocks, by the attacks of `keymixer bench dial`.
"""

from typing import Any, Final

import numpy as np

from core.errors import DataError
from core.leakage.fidelity import Pictures
from core.leakage.linear_estimate import LinearEstimate
from core.leakage.material import Finding, Material, finding
from core.leakage.moments import Blocks, flat
from core.leakage.restoring import TiledEstimate, hindrance
from core.leakage.schemes import random_orthogonal
from core.leakage.schemes.block_key import Coordinates
from core.leakage.sent_pixels import SentPixels, as_channels, shown
from core.shield import Noise

KEY: Final = "the key alone"
LINEAR: Final = "linear estimate"
NETWORK: Final = "inversion network"


def attack_shield(material: Material) -> tuple[dict[str, Any], list[Finding]]:
    """Return what is said of the shield, and what is recovered behind it.

    Attacks that were not run are in `left_out`, each with the reason.
    """
    key = random_orthogonal.draw(material.coordinates, material.generator(300))
    hidden = key.encrypt(material.own)
    opened = hidden @ key.matrix
    if not isinstance(material.coordinates, SentPixels):
        return _facts(material, {}), [_by_key(material, hidden, opened)]
    found: list[Finding] = []
    left_out: dict[str, str] = {}
    for name, attack in ((LINEAR, _linear), (NETWORK, _network)):
        try:
            found.append(attack(material, material.coordinates, opened))
        except _NotRun as error:
            left_out[name] = str(error)
    return _facts(material, left_out), found


class _NotRun(Exception):
    """An attack cannot be run here, or was not asked for; the message says why."""


def _facts(material: Material, left_out: dict[str, str]) -> dict[str, Any]:
    shield, sent = material.shield, material.coordinates
    pixels = sent.pixels if isinstance(sent, SentPixels) else sent
    left, whole = _variance(sent, material), _variance(pixels, material)
    spec = "none" if shield is None else shield.spec
    return {
        "spec": spec,
        "kind": spec.partition(":")[0],
        "numbers": pixels.dimension,
        "sent": sent.dimension,
        "variance_left": round(left / max(whole, np.finfo(float).tiny), 4),
        "sigma": shield.sigma if isinstance(shield, Noise) else 0.0,
        "public_images": 0 if material.shield is None else len(_many(material)),
        "left_out": [{"name": name, "why": why} for name, why in left_out.items()],
    }


def _variance(coordinates: Coordinates, material: Material) -> float:
    return float(flat(coordinates.blocks(material.public)).var(axis=0).sum())


def _by_key(material: Material, hidden: Blocks, opened: Blocks) -> Finding:
    return finding(
        KEY,
        random_orthogonal.NAME,
        "nothing was removed or drowned",
        "the key",
        original=material.own,
        seen=shown(material.coordinates, hidden),
        recovered=material.coordinates.pictures(opened),
    )


def _linear(material: Material, sent: SentPixels, opened: Blocks) -> Finding:
    """The estimate that every attack of such a report uses."""
    if sent.estimate is None:
        why = hindrance(sent, _many(material))
        raise _NotRun(why or "nothing was learned of public pictures")
    return _found(material, sent, opened, LINEAR, sent.pictures(opened))


def _network(material: Material, sent: SentPixels, opened: Blocks) -> Finding:
    """A network that goes on from the estimate, where there are torch and time."""
    if not isinstance(sent.estimate, LinearEstimate):
        raise _NotRun("it begins with a linear estimate of whole pictures")
    if not material.thorough:
        raise _NotRun("it takes minutes: --thorough runs it")
    try:
        from core.leakage.inversion import Training  # noqa: PLC0415
        from core.leakage.seeing import learned_inversion  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _NotRun(f"{error.name} is not installed") from error
    first = sent.estimate.matrix, sent.estimate.offset
    training = Training(seed=material.seed)
    try:
        network = learned_inversion(sent, _many(material), first, training)
    except DataError as error:
        raise _NotRun(str(error)) from error
    recovered = network(as_channels(opened))
    return _found(material, sent, opened, NETWORK, recovered)


def _many(material: Material) -> Pictures:
    return material.public if material.crowd is None else material.crowd.pictures


def _found(
    material: Material,
    sent: SentPixels,
    opened: Blocks,
    name: str,
    recovered: Pictures,
) -> Finding:
    """What was seen is what the right key gives back, and nothing more."""
    whole = "a picture"
    if isinstance(sent.estimate, TiledEstimate):
        side = sent.estimate.side * sent.patch_size
        whole = f"a tile of {side}x{side}"
    return finding(
        name,
        random_orthogonal.NAME,
        f"all blocks of {whole} at once, learned of {len(_many(material))} pictures",
        "the key, the shield, and public pictures",
        original=material.own,
        seen=sent.shown(opened),
        recovered=recovered,
    )
