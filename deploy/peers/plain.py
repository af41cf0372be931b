"""The plain model that every peer serves in torch, and its bytes in and out."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from core.architecture import Architecture
from core.convmixer import ConvMixer, put_together

MAX_BATCH = 32
BATCH_DELAY_S = 0.002


def load() -> ConvMixer:
    """The model of the release that `KEYMIXER_RELEASE` names, with both cores."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    folder = _release()
    return put_together(
        architecture(),
        load_file(folder / "backbone.safetensors"),
        load_file(folder / "embedding.safetensors")["weight"],
    )


def architecture() -> Architecture:
    """What the release says of its model's size."""
    manifest = json.loads((_release() / "manifest.json").read_text())
    return Architecture.from_dict(manifest["architecture"])


def images(request: bytes, a: Architecture) -> np.ndarray:
    """The images of one request; a view of its bytes."""
    return np.frombuffer(request, "<f4").reshape(-1, a.channels, a.height, a.width)


def forward(model: ConvMixer, images: torch.Tensor) -> torch.Tensor:
    """Logits of a batch; one larger than the largest goes in slices."""
    with torch.inference_mode():
        parts = [model(part) for part in images.split(MAX_BATCH)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def answer(model: ConvMixer, requests: Sequence[bytes]) -> list[bytes]:
    """Answer requests of one or more images together, in one batch."""
    arrays = [images(request, model.architecture) for request in requests]
    batch = np.concatenate(arrays) if len(arrays) > 1 else arrays[0].copy()
    logits = forward(model, torch.from_numpy(batch)).numpy()
    ends = np.cumsum([len(array) for array in arrays])[:-1]
    return [part.tobytes() for part in np.split(logits, ends)]


def _release() -> Path:
    return Path(os.environ["KEYMIXER_RELEASE"])
