"""Train alone, from the images to a signed release, through any number of kills."""

from pathlib import Path

from core.datasets import Split, load
from core.rpc.party import ensure_signing_key
from parties.model_provider.place import place_of
from parties.model_provider.release import write_release
from parties.model_provider.reporting import Reporter
from parties.model_provider.training import Plan, Trained, train
from parties.model_provider.weights import release_of


def train_alone(
    plan: Plan, data: str, folder: Path, tell: Reporter, *, restart: bool = False
) -> Trained:
    """Train and write a signed release to FOLDER/releases/NAME.

    An unfinished training of the same plan and images goes on after its last whole
    epoch, and ends with the weights it would have had.

    Raises:
        TrainingChangedError: the unfinished one had another plan or other images.
        TrainingRunsError: another process trains a model of this name here.
    """
    splits: tuple[Split, ...] = ("train", "test")
    with place_of(folder, plan.name, restart=restart) as place:
        training, test = (load(data, split, tell.preparing) for split in splits)
        epochs = plan.recipe.epochs
        trained = train(
            (training, test),
            plan,
            lambda step: tell.step(step, epochs),
            tell.epoch,
            place,
        )
        target = folder / "releases" / plan.name
        key = ensure_signing_key(folder)
        write_release(target, release_of(trained), trained.curve, key)
        place.clear()
    tell.done(release=str(target), accuracy=trained.accuracy)
    return trained
