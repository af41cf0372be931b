"""What attacks that learn have: many public pictures, and a release's backbone."""

from pathlib import Path
from typing import Final

import numpy as np
from einops import rearrange

from core.datasets import Dataset
from core.leakage.crowd import Crowd
from core.leakage.served import Served
from core.manifest import Manifest
from core.wire import load_tensors, read_file

# At most so many; they take four bytes a number.
MOST: Final = 20_000


def crowd_of(pixels: np.ndarray, labels: np.ndarray | None = None) -> Crowd:
    """Bytes [n, h, w, c] and their labels as an attacker has them: the first `MOST`."""
    pictures = rearrange(pixels[:MOST], "n h w c -> n c h w").astype(np.float32) / 255
    return Crowd(pictures, None if labels is None else labels[:MOST])


def labels_for(manifest: Manifest, public: Dataset) -> np.ndarray | None:
    """The labels of public pictures; None if the model's classes are others."""
    return public.labels if public.classes == manifest.classes else None


def served_by(release: Path) -> Served:
    """Read what a server would have of a release, but for the issued embedding."""
    manifest = Manifest.from_bytes(read_file(release / "manifest.json"))
    tensors = load_tensors(release / "backbone.safetensors")
    return Served(manifest.architecture, tensors)
