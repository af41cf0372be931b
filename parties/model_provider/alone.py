"""Train alone, from the images to a signed release, through any number of kills."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from core.datasets import Split, image_size, load
from core.rpc.party import ensure_signing_key
from core.shield import ShieldPlan
from core.training import Recipe
from parties.model_provider.measuring import card_of, in_words
from parties.model_provider.place import place_of
from parties.model_provider.release import Release, write_release
from parties.model_provider.reporting import Reporter
from parties.model_provider.training import Plan, train
from parties.model_provider.weights import release_of


def plan_of(**options: Any) -> Plan:
    """Make a plan of a command's options; some are the plan's, the others its recipe's.

    Raises:
        ConfigurationError: one of them cannot be.
    """
    recipe = {field.name for field in fields(Recipe)} - {"seed"}
    chosen = {name: value for name, value in options.items() if name in recipe}
    others = {name: value for name, value in options.items() if name not in recipe}
    shield = ShieldPlan.parse(others.pop("shield", "none"))
    return Plan(**others, recipe=Recipe(**chosen), shield=shield)


def train_alone(
    plan: Plan,
    data: str,
    folder: Path,
    tell: Reporter,
    *,
    target: Path | None = None,
    restart: bool = False,
    public: bool = False,
) -> tuple[Release, Path]:
    """Train and write a signed release; returns it, and where it is.

    An unfinished training of the same plan and images goes on after its last whole
    epoch, and ends with the weights it would have had.

    Args:
        target: Where the release goes; by default FOLDER/releases/NAME.
        public: The release will be published, and its manifest is to say so.

    Raises:
        TrainingChangedError: the unfinished one had another plan or other images.
        TrainingRunsError: another process trains a model of this name here.
    """
    splits: tuple[Split, ...] = ("train", "test")
    with place_of(folder, plan.name, restart=restart) as place:
        size, resize = image_size(plan.image_size), plan.resize or None
        training, test = (
            load(data, split, tell.preparing, size=size, resize=resize)
            for split in splits
        )
        epochs = plan.recipe.epochs
        trained = train(
            (training, test),
            plan,
            lambda step: tell.step(step, epochs),
            tell.epoch,
            place,
        )
        target = target or folder / "releases" / plan.name
        key = ensure_signing_key(folder)
        card = card_of(
            (training, test), trained.preprocessing, plan.patch_size, trained.shield
        )
        release = release_of(trained, public=public, leakage=card)
        write_release(target, release, trained.curve, key)
        place.clear()
    told = in_words(card)
    tell.done(release=str(target), accuracy=trained.accuracy, leakage=told)
    return release, target
