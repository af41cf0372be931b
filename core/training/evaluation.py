"""Ask a plain model, and say how often it is right."""

import numpy as np
import torch
from jaxtyping import Float32
from torch import Generator

from core.convmixer import ConvMixer
from core.shielding import Shielding
from core.training.examples import Examples, Images
from core.training.steps import channels_last

Logits = Float32[np.ndarray, "n classes"]


def evaluate(model: ConvMixer, examples: Examples, batch: int = 500) -> float:
    """Return the share of images, 0..1, whose class the model names."""
    logits = predict_logits(model, examples.images, batch, examples.shield)
    return float((logits.argmax(axis=1) == examples.labels).mean())


def predict_logits(
    model: ConvMixer, images: Images, batch: int = 500, shield: Shielding | None = None
) -> Logits:
    """Ask the plain model; its mode, training or not, is left as it was.

    A shield's noise is the same in each call.
    """
    was_training = model.training
    # BatchNorm must use what it learned, not the images at hand.
    model.eval()
    generator = Generator().manual_seed(0)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            read = torch.tensor(images[start : start + batch])
            if shield is not None:
                read = shield(read, generator)
            parts.append(model(channels_last(read)).numpy())
    model.train(was_training)
    empty = np.zeros((0, model.architecture.classes), dtype=np.float32)
    return np.concatenate([empty, *parts])
