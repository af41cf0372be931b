"""Shields for tests: of each kind, and entropy that gives the same draw again."""

import io

import numpy as np

from core.architecture import Architecture
from core.draws import Draw
from core.normals import Entropy
from core.preprocessing import Preprocessing
from core.principal import moments_of
from core.shield import Shield, ShieldPlan


def shield_named(
    spec: str, pixels: np.ndarray, preprocessing: Preprocessing, patch_size: int
) -> Shield:
    """The shield for a training set; there must be one."""
    plan = ShieldPlan.parse(spec)
    shield = plan.make(preprocessing, patch_size, moments_of(pixels, patch_size))
    assert shield is not None
    return shield


def fixed_draw(number: int = 0) -> Entropy:
    """Entropy that starts anew with the same bytes, for a million numbers."""
    return io.BytesIO(Draw(bytes([number]) * 32, 1 << 22).make()).read


def natural(n: int, p: Preprocessing, seed: int = 0) -> np.ndarray:
    """Pictures whose neighbouring pixels are alike, as those of cameras are."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 12, (n, p.height, p.width, p.channels))
    walk = steps.cumsum(axis=1).cumsum(axis=2) / 4
    return np.clip(walk + 128, 0, 255).astype(np.uint8)


def sizes_of(p: Preprocessing, patch_size: int) -> Architecture:
    """A small network for pictures of this form."""
    return Architecture(
        hidden=8,
        depth=1,
        kernel_size=3,
        patch_size=patch_size,
        channels=p.channels,
        height=p.height,
        width=p.width,
        classes=5,
    )
