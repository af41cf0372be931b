"""The average of a model's weights over its last steps, which often answers better."""

from typing import Final, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from core.convmixer import ConvMixer

_Tensors = tuple[Tensor, ...] | list[Tensor]

_WARM: Final = 10


def averaged(model: ConvMixer, decay: float) -> AveragedModel:
    """Follow a model's weights by an exponential moving average.

    After step t the average moves by `1 - min(decay, (1 + t) / (10 + t))` towards the
    weights: without the second, which tensorflow's `ExponentialMovingAverage` has too,
    a short training's average would be mostly its first weights. What BatchNorm
    measured is averaged with them (Polyak & Juditsky 1992; Izmailov et al., arXiv
    1803.05407).
    """

    @torch.no_grad()
    def move(averages: _Tensors, current: _Tensors, t: Tensor | int) -> None:
        kept = min(decay, (1 + int(t)) / (_WARM + int(t)))
        for average, now in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(now, 1 - kept)
            else:  # How many batches BatchNorm has seen.
                average.copy_(now)

    return AveragedModel(model, multi_avg_fn=move, use_buffers=True)


def module_of(average: AveragedModel) -> ConvMixer:
    """The averaged model itself."""
    return cast("ConvMixer", average.module)
