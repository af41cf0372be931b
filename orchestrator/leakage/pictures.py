"""Which pictures are attacked, which the attacker has, and what they become."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from einops import rearrange
from PIL import Image

from core.datasets import OnProgress, Split, load
from core.datasets.files import SUFFIXES, read_image
from core.datasets.images import fit
from core.datasets.own import is_own
from core.errors import ConfigurationError, CorruptFileError, DataError
from core.leakage.fidelity import Pictures
from core.leakage.material import FEWEST, Material
from core.leakage.restoring import LARGEST, hindrance, learned
from core.leakage.schemes.block_key import Pixels
from core.leakage.sent_pixels import SentPixels
from core.manifest import Manifest
from core.preprocessing import Preprocessing
from core.principal import moments_of
from core.shield import Shield, ShieldPlan
from core.transform import flatten_embedding
from core.wire import load_tensors, read_file
from orchestrator.leakage.crowds import MOST, crowd_of, labels_for, served_by

# An attacker's public pictures: more of them change the figures little; those that a
# shield is learned from, where they are small, of which more do help.
PUBLIC: Final = 1000
MANY: Final = MOST
# On either side no more numbers than a hundred pictures of 224x224 in colour.
_NUMBERS: Final = 100 * 3 * 224 * 224
# Of a picture: each is compared with every other.
_MOST_BLOCKS: Final = 4_096
_DRAWN_HIDDEN: Final = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """What to attack: a folder of pictures, or a dataset; as a release reads it, or so.

    `images` of the owner's are attacked. Without a release, pixels from 0 to 1 in
    blocks of `patch_size`, pictures of `size` x `size`, an embedding drawn at random,
    and a `shield` made for the public pictures. `thorough`: more keys and more starts,
    and attacks that learn.
    """

    source: Path | str
    release: Path | None = None
    images: int = 24
    patch_size: int = 4
    size: int = 32
    seed: int = 0
    thorough: bool = False
    shield: str = "none"


def prepare(plan: Plan, on_progress: OnProgress) -> Material:
    """Read the pictures and draw which are whose.

    Raises:
        ConfigurationError: no such shield, or blocks that do not tile the pictures.
        DataError: too few pictures, or none.
        CorruptFileError: the release cannot be read.
    """
    manifest = _manifest(plan)
    shape, side, wanted = _form(plan, manifest)
    _require_blocks(shape, side)
    wanted.require_fit(side, shape.channels)
    rng = np.random.default_rng(plan.seed)
    shielded = wanted.kind != "none" or (manifest is not None and bool(manifest.shield))
    learning = shielded or plan.thorough
    counts = kept(plan.images, shape), public_count(shape, learning=learning)
    own, public, labels = _two_sides(plan, shape, counts, on_progress, rng)
    shield = (
        wanted.make(shape, side, moments_of(public, side))
        if manifest is None
        else manifest.shield
    )
    crowd = crowd_of(public, labels) if learning else None
    known = None if crowd is None else crowd.pictures
    coordinates = coordinates_for(shape, side, shield, known, plan.seed)
    return Material(
        own=shares(own),
        public=shares(public[: kept(PUBLIC, shape)]),
        coordinates=coordinates,
        embedding=_embedding(plan, coordinates.dimension),
        seed=plan.seed,
        thorough=plan.thorough,
        served=None if plan.release is None else served_by(plan.release),
        crowd=crowd,
    )


def coordinates_for(
    shape: Preprocessing,
    patch_size: int,
    shield: Shield | None,
    public: Pictures | None,
    seed: int,
) -> Pixels | SentPixels:
    """How pictures become numbers; what a shield took is learned of public ones."""
    if shield is None:
        return Pixels(patch_size, shape.channels, *_scale(shape))
    sent = SentPixels.of(shape, patch_size, shield)
    if public is None or hindrance(sent, public):
        return sent
    return learned(sent, public, np.random.default_rng((seed, 3)))


def kept(count: int, shape: Preprocessing) -> int:
    """So many pictures, or fewer where they are so large that memory would not do."""
    numbers = shape.height * shape.width * shape.channels
    return max(FEWEST, min(count, _NUMBERS // numbers))


def public_count(shape: Preprocessing, *, learning: bool) -> int:
    """How many public ones are read: many small ones where something is learned."""
    numbers = shape.height * shape.width * shape.channels
    if not learning or numbers > LARGEST:
        return kept(PUBLIC, shape)
    return MANY


def shares(pixels: np.ndarray) -> Pictures:
    """Bytes [n, h, w, c] to pictures [n, c, h, w] from 0 to 1."""
    return rearrange(pixels, "n h w c -> n c h w") / 255


def _manifest(plan: Plan) -> Manifest | None:
    if plan.release is None:
        return None
    return Manifest.from_bytes(read_file(plan.release / "manifest.json"))


def _form(
    plan: Plan, manifest: Manifest | None
) -> tuple[Preprocessing, int, ShieldPlan]:
    """What pictures are made of, their blocks' side, and a shield that is asked for."""
    wanted = ShieldPlan.parse(plan.shield)
    if manifest is None:
        pixels = Preprocessing(plan.size, plan.size, 3, (0.0,) * 3, (1.0,) * 3)
        return pixels, plan.patch_size, wanted
    if wanted.kind != "none":
        raise ConfigurationError("shield: a release has its own, or none")
    return manifest.preprocessing, manifest.block[0], wanted


def _require_blocks(shape: Preprocessing, side: int) -> None:
    height, width = shape.height, shape.width
    if height % side or width % side:
        raise ConfigurationError(
            f"size: {height}x{width} pixels do not split into {side}x{side} blocks"
        )
    if (blocks := height * width // side**2) > _MOST_BLOCKS:
        raise ConfigurationError(
            f"patch: expected at most {_MOST_BLOCKS} blocks a picture, got {blocks} of "
            f"{side}x{side}: take larger ones"
        )


def _scale(
    shape: Preprocessing,
) -> tuple[float | tuple[float, ...], float | tuple[float, ...]]:
    """One number for all channels where pixels stay as they are."""
    if not any(shape.mean) and all(each == 1 for each in shape.std):
        return 0.0, 1.0
    return shape.mean, shape.std


def _embedding(plan: Plan, dimension: int) -> np.ndarray:
    """The release's, or one drawn at random, which is of full rank."""
    if plan.release is None:
        rng = np.random.default_rng((plan.seed, 1))
        bound = dimension**-0.5
        hidden = max(_DRAWN_HIDDEN, 2 * dimension)
        return rng.uniform(-bound, bound, (hidden, dimension))
    tensors = load_tensors(plan.release / "embedding.safetensors")
    if len(tensors) != 1:
        raise CorruptFileError(f"embedding: expected one tensor, got {len(tensors)}")
    return flatten_embedding(next(iter(tensors.values())))


def _two_sides(
    plan: Plan,
    shape: Preprocessing,
    counts: tuple[int, int],
    on_progress: OnProgress,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The owner's pictures, and public ones of the same kind: never the same ones.

    With labels, if they are a model's classes.
    """
    if isinstance(plan.source, Path):
        return *_folder(plan.source, shape, counts, on_progress, rng), None
    splits: tuple[Split, Split] = ("test", "train")
    (own, _), (public, labels) = (
        _drawn(plan, (split, count), shape, on_progress, rng)
        for split, count in zip(splits, counts, strict=True)
    )
    return own, public, labels


def _drawn(
    plan: Plan,
    some: tuple[Split, int],
    shape: Preprocessing,
    on_progress: OnProgress,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray | None]:
    """So many of a split; those of a fixed size are scaled as an owner's are."""
    split, count = some
    source = str(plan.source)
    loose = Path(source).expanduser().is_dir() or is_own(source)
    size = (shape.height, shape.width) if loose else None
    found = load(source, split, on_progress, size=size, resize=shape.resize)
    chosen = rng.permutation(len(found))[:count]
    manifest = _manifest(plan)
    labels = None if manifest is None else labels_for(manifest, found)
    pixels = _fitting(found.images[chosen], shape)
    return pixels, None if labels is None else labels[chosen]


def _fitting(pixels: np.ndarray, shape: Preprocessing) -> np.ndarray:
    if pixels.shape[1:] == (shape.height, shape.width, shape.channels):
        return pixels
    pictures = (each[..., 0] if each.shape[-1] == 1 else each for each in pixels)
    return np.stack([fit(Image.fromarray(each), shape) for each in pictures])


def _folder(
    folder: Path,
    shape: Preprocessing,
    counts: tuple[int, int],
    on_progress: OnProgress,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(found) < 2 * FEWEST:
        raise DataError(
            f"{folder}: {len(found)} PNG or JPEG files; at least {2 * FEWEST} are "
            "needed, half of them as the attacker's"
        )
    own = min(counts[0], len(found) // 2)
    chosen = rng.permutation(len(found))[: own + counts[1]]
    pixels = []
    for number, which in enumerate(chosen):
        pixels.append(read_image(found[which], shape))
        on_progress(f"reading {folder.name}", number + 1, len(chosen))
    return np.stack(pixels[:own]), np.stack(pixels[own:])
