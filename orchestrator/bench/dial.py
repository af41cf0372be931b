"""What an attacker with the key recovers under each shield, beside the accuracy.

The key is orthogonal and known, so that it is undone exactly: what is attacked is what
the shield leaves, by one linear estimate from all of a picture's blocks, and by a
network that is trained from there. The stronger of the two counts.
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from einops import rearrange

from core.datasets import load
from core.leakage.fidelity import Pictures, fidelity
from core.leakage.linear_estimate import LinearEstimate
from core.leakage.schemes import random_orthogonal
from core.leakage.schemes.block_key import Pixels
from core.leakage.sent_pixels import SentPixels
from core.preprocessing import Preprocessing
from core.principal import moments_of
from core.shield import Shield, ShieldPlan
from core.wire import write_atomically
from orchestrator.bench.shields import AnotherMeasurement, preprocessing_of

if TYPE_CHECKING:
    from torch import Generator

    from core.leakage.inversion import Seeing

# So many of the attacked pictures are kept, to be looked at.
SHOWN: Final = 8
_AT_ONCE: Final = 500

Told = Callable[[Mapping[str, Any], int, int], None]


@dataclass(frozen=True, slots=True)
class Attacker:
    """Who attacks: its public pictures, and how long it trains.

    `public` pictures are the first of the training split, `attacked` ones the first of
    the test split, on which no choice is made.
    """

    data: str = "cifar10"
    public: int = 20_000
    attacked: int = 500
    patch_size: int = 4
    epochs: int = 6
    seed: int = 0


def measure_dial(
    attacker: Attacker, shields: Sequence[str], log: Path, told: Told
) -> list[dict[str, Any]]:
    """Attack each shield; return a row for each attack.

    A shield that the log has is not attacked again. What was recovered of some pictures
    lies beside it, as `.npz`.

    Raises:
        AnotherMeasurement: the log is of another attacker.
    """
    rows, pictures = _read(log, attacker)
    known = {row["shield"] for row in rows}
    sides = None
    for number, spec in enumerate(shields, start=1):
        if spec in known:
            continue
        sides = sides or _sides(attacker)
        found, recovered = _attacked(attacker, sides, spec)
        rows.extend(found)
        pictures |= recovered
        content = {"attacker": asdict(attacker), "rows": rows}
        _keep(pictures, log.with_suffix(".npz"))
        write_atomically(log, json.dumps(content, indent=1).encode(), mode=0o644)
        told(max(found, key=lambda row: float(row["ssim"])), number, len(shields))
    return rows


def strongest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """For each shield, the attack that recovered most."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        spec = row["shield"]
        if spec not in best or row["ssim"] > best[spec]["ssim"]:
            best[spec] = row
    return best


def _attacked(
    attacker: Attacker, sides: tuple[np.ndarray, np.ndarray], spec: str
) -> tuple[list[dict[str, Any]], dict[str, Pictures]]:
    """Attack one shield every way, and keep pictures of what came of it."""
    preprocessing, side = preprocessing_of(sides[0]), attacker.patch_size
    shield = ShieldPlan.parse(spec).make(
        preprocessing, side, moments_of(sides[0], side)
    )
    public, own = (_shares(pixels) for pixels in sides)
    began = time.process_time()
    guesses = (
        _decrypted(attacker, own)
        if shield is None
        else _estimated(attacker, (public, own), preprocessing, shield)
    )
    rows, shown = [], {"the originals": own[:SHOWN]}
    for name, guess in guesses:
        spent_s = round(time.process_time() - began, 1)
        figures = {k: round(v, 4) for k, v in asdict(fidelity(own, guess)).items()}
        rows.append({"shield": spec, "attack": name, **figures, "cpu_s": spent_s})
        shown[f"{spec}, {name}"] = guess[:SHOWN]
    return rows, shown


def _decrypted(attacker: Attacker, own: Pictures) -> Iterator[tuple[str, Pictures]]:
    """Without a shield the key alone opens everything."""
    coordinates = Pixels(attacker.patch_size, own.shape[1])
    key = random_orthogonal.draw(coordinates, np.random.default_rng(attacker.seed))
    yield "key", key.decrypt(key.encrypt(own))


def _estimated(
    attacker: Attacker,
    sides: tuple[Pictures, Pictures],
    preprocessing: Preprocessing,
    shield: Shield,
) -> Iterator[tuple[str, Pictures]]:
    """The linear estimate, and the network that goes on from it."""
    import torch  # noqa: PLC0415 - a data owner's installation has none

    from core.leakage.inversion import Training  # noqa: PLC0415
    from core.leakage.seeing import learned_inversion, seeing  # noqa: PLC0415

    torch.set_num_threads(1)
    public, own = sides
    sent = SentPixels.of(preprocessing, shield.patch_size, shield)
    generator = torch.Generator().manual_seed(attacker.seed)
    seen, hidden = (_seen(seeing(sent), part, generator) for part in (public, own))
    linear = LinearEstimate.of(seen, public)
    yield "linear", linear(hidden)
    first = linear.matrix, linear.offset
    training = Training(attacker.epochs, seed=attacker.seed)
    yield "network", learned_inversion(sent, public, first, training)(hidden)


def _seen(seeing: "Seeing", pictures: Pictures, generator: "Generator") -> np.ndarray:
    import torch  # noqa: PLC0415

    parts = [
        seeing(torch.from_numpy(pictures[at : at + _AT_ONCE]), generator).numpy()
        for at in range(0, len(pictures), _AT_ONCE)
    ]
    return np.concatenate(parts)


def _sides(attacker: Attacker) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the public pictures, and of the attacked ones."""
    return (
        load(attacker.data, "train").images[: attacker.public],
        load(attacker.data, "test").images[: attacker.attacked],
    )


def _shares(pixels: np.ndarray) -> Pictures:
    """Bytes [n, h, w, c] to pictures [n, c, h, w] from 0 to 1, float32."""
    return rearrange(pixels, "n h w c -> n c h w").astype(np.float32) / 255


def _read(
    log: Path, attacker: Attacker
) -> tuple[list[dict[str, Any]], dict[str, Pictures]]:
    if not log.exists():
        return [], {}
    content = json.loads(log.read_text())
    if content["attacker"] != asdict(attacker):
        raise AnotherMeasurement(f"{log} has the attacker {content['attacker']}")
    kept = log.with_suffix(".npz")
    pictures = dict(np.load(kept)) if kept.exists() else {}
    return content["rows"], pictures


def _keep(pictures: Mapping[str, Pictures], path: Path) -> None:
    buffer = io.BytesIO()
    arrays = {name: _bytes(shown) for name, shown in pictures.items()}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue(), mode=0o644)


def _bytes(pictures: Pictures) -> np.ndarray:
    if pictures.dtype == np.uint8:
        return pictures
    pixels: np.ndarray = np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)
    return pixels
