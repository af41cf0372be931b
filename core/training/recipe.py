"""How to train: what a manifest says of it, number by number."""

from dataclasses import dataclass
from typing import Final

from core.errors import ConfigurationError

_ABOVE_0: Final = ("epochs", "batch", "max_lr")
_FROM_0: Final = (
    *("weight_decay", "pad", "seed"),
    *("mixup", "cutmix", "label_smoothing", "ema", "patience"),
)
# A share of something that may not be all of it.
_BELOW_1: Final = ("label_smoothing", "ema")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: AdamW, one cycle of the learning rate, crops and flips.

    Attributes:
        epochs: At most so many times every image is seen.
        batch: Images in a step.
        max_lr: The highest learning rate of the one cycle (Smith, arXiv 1803.09820).
        weight_decay: What a weight loses in a step, times the learning rate.
        pad: In pixels: each image is reflected at its edges by that much, and a crop of
            its own size is taken anywhere in it.
        flip: Mirror half of the images.
        seed: Of order, crops and mixtures.
        mixup: alpha of the Beta distribution that two images are mixed by (Zhang et
            al., arXiv 1710.09412); 0: never. With `cutmix`, each takes half the steps.
        cutmix: The same for a rectangle of one image in another (Yun et al., arXiv
            1905.04899).
        label_smoothing: The share of a label that is dealt out to all classes.
        ema: Decay, a step, of the average of the weights that is evaluated and kept;
            0: the last weights are.
        patience: Epochs without a better validation accuracy after which it stops, and
            takes the best epoch's weights; 0: it never stops early.

    The defaults reach 70 % on CIFAR-10.
    """

    epochs: int = 6
    batch: int = 128
    max_lr: float = 0.01
    weight_decay: float = 0.01
    pad: int = 4
    flip: bool = True
    seed: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        for name in _ABOVE_0:
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}: expected a number above 0")
        for name in _FROM_0:
            if not getattr(self, name) >= 0:
                raise ConfigurationError(f"{name}: expected a number from 0 up")
        for name in _BELOW_1:
            if not getattr(self, name) < 1:
                raise ConfigurationError(f"{name}: expected a number below 1")
