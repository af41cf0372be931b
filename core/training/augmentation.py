"""More images out of those there are: crops, mirrored ones, mixtures of two."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import one_hot, pad

from core.training.recipe import Recipe


def augment(
    images: Float[Tensor, "n c h w"], recipe: Recipe, generator: Generator
) -> Float[Tensor, "n c h w"]:
    """Crop each image out of its reflected surroundings, and flip half of them.

    All crops of all images are one strided view; taking one each is a single gather.
    """
    n, _, height, width = images.shape
    reflected = pad(images, [recipe.pad] * 4, mode="reflect")
    crops = reflected.unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(2 * recipe.pad + 1, (2, n), generator=generator)
    cropped = crops[torch.arange(n), :, top, left]
    if not recipe.flip:
        return cropped
    flipped = torch.rand(n, generator=generator) < 0.5  # noqa: PLR2004  half of them
    return torch.where(flipped[:, None, None, None], cropped.flip(3), cropped)


def mix(
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    classes: int,
    recipe: Recipe,
    generator: Generator,
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n classes"] | Int64[Tensor, " n"]]:
    """Mix each image with another one of the batch, and their labels by as much.

    Without `mixup` and `cutmix` both stay as they are. Returns images, and labels as
    one share for each class.
    """
    ways = [way for way in (recipe.mixup, recipe.cutmix) if way]
    if not ways:
        return images, labels
    numbers = _numbers(generator)
    cuts = bool(recipe.cutmix) and (len(ways) == 1 or numbers.random() < 1 / 2)
    alpha = recipe.cutmix if cuts else recipe.mixup
    share = float(numbers.beta(alpha, alpha))
    others = torch.randperm(len(images), generator=generator)
    if cuts:
        images, share = _paste(images, images[others], share, numbers)
    else:
        images = share * images + (1 - share) * images[others]
    shares = one_hot(labels, classes).to(images.dtype)
    return images, share * shares + (1 - share) * shares[others]


def _paste(
    images: Tensor, others: Tensor, share: float, numbers: np.random.Generator
) -> tuple[Tensor, float]:
    """Paste a rectangle of others; return what share of an image is still its own.

    Its middle may be anywhere, so that it may be cut off at the edges (arXiv
    1905.04899, equation 2).
    """
    height, width = images.shape[2:]
    side = math.sqrt(1 - share)
    top, bottom = _span(height, side, numbers)
    left, right = _span(width, side, numbers)
    pasted = images.clone()
    pasted[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    area = (bottom - top) * (right - left)
    return pasted, 1 - area / (height * width)


def _span(length: int, part: float, numbers: np.random.Generator) -> tuple[int, int]:
    """A span of a length, around a middle that may be anywhere, within 0..length."""
    half, middle = round(length * part) / 2, int(numbers.integers(length))
    return max(0, math.floor(middle - half)), min(length, math.floor(middle + half))


def _numbers(generator: Generator) -> np.random.Generator:
    """NumPy draws from Beta; torch does so only with its global generator."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
