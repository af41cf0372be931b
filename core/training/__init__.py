"""Train a ConvMixer and ask it: functions of model, images and recipe."""

from core.training.augmentation import augment, mix
from core.training.evaluation import Logits, evaluate, predict_logits
from core.training.examples import Examples, Images, require_every_class
from core.training.fitting import Progress, Unseen, fit, fit_steadily
from core.training.recipe import Recipe
from core.training.steps import OptimiserName, Penalty
from core.training.under_way import Snapshot

__all__ = [
    "Examples",
    "Images",
    "Logits",
    "OptimiserName",
    "Penalty",
    "Progress",
    "Recipe",
    "Snapshot",
    "Unseen",
    "augment",
    "evaluate",
    "fit",
    "fit_steadily",
    "mix",
    "predict_logits",
    "require_every_class",
]
