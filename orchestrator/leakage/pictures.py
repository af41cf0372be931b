"""Which pictures are attacked, which the attacker has, and what they become."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from einops import rearrange

from core.datasets import Dataset, OnProgress, load
from core.datasets.files import SUFFIXES, read_image
from core.errors import CorruptFileError, DataError
from core.leakage.fidelity import Pictures
from core.leakage.material import FEWEST, Material
from core.leakage.schemes.block_key import Pixels
from core.manifest import Manifest
from core.preprocessing import Preprocessing
from core.transform import flatten_embedding
from core.wire import load_tensors, read_file
from orchestrator.leakage.crowds import MOST, crowd_of, labels_for, served_by

# An attacker's public pictures: more of them change the figures little.
PUBLIC: Final = 1000
_DRAWN_HIDDEN: Final = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """What to attack: a folder of pictures, or a dataset; as a release reads it, or so.

    `images` of the owner's are attacked. Without a release, pixels from 0 to 1 in
    blocks of `patch_size`, pictures of `size` x `size`, and an embedding drawn at
    random. `thorough`: more keys and more starts, and attacks that learn.
    """

    source: Path | str
    release: Path | None = None
    images: int = 24
    patch_size: int = 4
    size: int = 32
    seed: int = 0
    thorough: bool = False


def prepare(plan: Plan, on_progress: OnProgress) -> Material:
    """Read the pictures and draw which are whose; raises `DataError` and kin."""
    shape, coordinates, embedding = _reading(plan)
    rng = np.random.default_rng(plan.seed)
    own, public, labels = _two_sides(plan, shape, on_progress, rng)
    return Material(
        own=shares(own),
        public=shares(public[:PUBLIC]),
        coordinates=coordinates,
        embedding=embedding,
        seed=plan.seed,
        thorough=plan.thorough,
        served=None if plan.release is None else served_by(plan.release),
        crowd=crowd_of(public, labels) if plan.thorough else None,
    )


def shares(pixels: np.ndarray) -> Pictures:
    """Bytes [n, h, w, c] to pictures [n, c, h, w] from 0 to 1."""
    return rearrange(pixels, "n h w c -> n c h w") / 255


def _reading(plan: Plan) -> tuple[Preprocessing, Pixels, np.ndarray]:
    if plan.release is None:
        shape = Preprocessing(plan.size, plan.size, 3, (0.0,) * 3, (1.0,) * 3)
        coordinates = Pixels(plan.patch_size, 3)
        rng = np.random.default_rng((plan.seed, 1))
        bound = coordinates.dimension**-0.5
        drawn = rng.uniform(-bound, bound, (_DRAWN_HIDDEN, coordinates.dimension))
        return shape, coordinates, drawn
    manifest = Manifest.from_bytes(read_file(plan.release / "manifest.json"))
    shape = manifest.preprocessing
    side = manifest.architecture.patch_size
    coordinates = Pixels(side, shape.channels, shape.mean, shape.std)
    tensors = load_tensors(plan.release / "embedding.safetensors")
    if len(tensors) != 1:
        raise CorruptFileError(f"embedding: expected one tensor, got {len(tensors)}")
    return shape, coordinates, flatten_embedding(next(iter(tensors.values())))


def _two_sides(
    plan: Plan, shape: Preprocessing, on_progress: OnProgress, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The owner's pictures, and public ones of the same kind: never the same ones.

    With labels, if they are a model's classes.
    """
    if isinstance(plan.source, Path):
        pixels = _folder(plan.source, shape, on_progress)
        order = rng.permutation(len(pixels))
        count = min(plan.images, len(pixels) // 2)
        return pixels[order[:count]], pixels[order[count:]], None
    size = (shape.height, shape.width)
    test, training = (
        load(plan.source, split, on_progress, size=size, resize=shape.resize)
        for split in ("test", "train")
    )
    if test.images.shape[1:] != (*size, shape.channels):
        raise DataError(
            f"{plan.source}: pictures are {test.images.shape[1:]}, expected "
            f"{(*size, shape.channels)}: give --size and --patch, or another release"
        )
    own = test.images[rng.permutation(len(test))[: plan.images]]
    chosen = rng.permutation(len(training))[: MOST if plan.thorough else PUBLIC]
    labels = None if plan.release is None else _labels(plan.release, training)
    known = None if labels is None else labels[chosen]
    return own, training.images[chosen], known


def _labels(release: Path, public: Dataset) -> np.ndarray | None:
    return labels_for(Manifest.from_bytes(read_file(release / "manifest.json")), public)


def _folder(folder: Path, shape: Preprocessing, on_progress: OnProgress) -> np.ndarray:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(found) < 2 * FEWEST:
        raise DataError(
            f"{folder}: {len(found)} PNG or JPEG files; at least {2 * FEWEST} are "
            "needed, half of them as the attacker's"
        )
    pixels = []
    for number, path in enumerate(found):
        pixels.append(read_image(path, shape))
        on_progress(f"reading {folder.name}", number + 1, len(found))
    return np.stack(pixels)
