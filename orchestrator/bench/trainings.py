"""One training each: run by the provider's own commands, and not repeated once done."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from core.datasets import Dataset
from core.datasets.partition import Partition, take
from core.errors import ConfigurationError
from core.rpc.identity import MODEL_PROVIDER
from core.wire import read_file, write_atomically
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Processes
from orchestrator.simulation.sites import write_images

What = Literal["centralised", "federated", "one site", "trial"]

_PROVIDER: Final = "parties.model_provider"
_NAME: Final = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The network and the recipe, the same for every training."""

    hidden: int = 64
    depth: int = 2
    kernel_size: int = 3
    patch_size: int = 8
    batch: int = 64
    max_lr: float = 0.003
    weight_decay: float = 0.01
    pad: int = 4
    flip: bool = True

    def options(self) -> list[str]:
        """As the provider's commands take them."""
        given = asdict(self)
        flip = "--flip" if given.pop("flip") else "--no-flip"
        named = [(f"--{n.replace('_', '-')}", str(v)) for n, v in given.items()]
        return [*(part for pair in named for part in pair), flip]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Who trains on what; each pass is over as many images as all sites have."""

    what: What
    seed: int
    passes: int
    sites: int = 1
    # How images are dealt out, and which site is alone, from 1; none: all images.
    partition: str = ""
    site: int = 0

    @property
    def name(self) -> str:
        """A file's name."""
        where = (self.partition.replace(":", "-"), f"site{self.site}" * bool(self.site))
        parts = [self.what.replace(" ", "-"), *filter(None, where), f"seed{self.seed}"]
        return "-".join(parts)


@dataclass(frozen=True, slots=True)
class Trainer:
    """Runs trainings in a folder that keeps what they came to."""

    folder: Path
    data: str
    splits: tuple[Dataset, Dataset]
    shape: Shape
    running: Processes
    told: Narrator

    def run(self, training: Training) -> dict[str, Any]:
        """Train, or read what an earlier run of the very same training wrote.

        Raises:
            ConfigurationError: the folder holds one with other options or images.
            ProcessFailed: it ended with an error.
        """
        kept = self.folder / "runs" / f"{training.name}.json"
        asked = self._asked(training)
        if kept.exists():
            found: dict[str, Any] = json.loads(read_file(kept))
            _require_same(kept, asked, found)
            return found
        run = {**asked, **self._trained(training)}
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(run, indent=1).encode(), mode=0o644)
        self.told.says(MODEL_PROVIDER, training.name, _described(run))
        return run

    def counts(self, training: Training) -> list[int]:
        """How many training images of each class the site has that is alone."""
        train = self.splits[0]
        labels = train.labels[self._rows(training)]
        return [
            int(count) for count in np.bincount(labels, minlength=len(train.classes))
        ]

    def _asked(self, training: Training) -> dict[str, Any]:
        counted = {"images_by_class": self.counts(training)} if training.site else {}
        digests = [part.digest for part in self.splits]
        shape = asdict(self.shape)
        return {**asdict(training), **counted, "shape": shape, "digests": digests}

    def _trained(self, training: Training) -> dict[str, Any]:
        work = self.folder / "work" / training.name
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = self._command(training, work)
        self.running.run(
            training.name, MODEL_PROVIDER, [*command, "--progress", "json"]
        )
        release = work / "releases" / _NAME
        curve = json.loads(read_file(release / "curve.json"))
        manifest = json.loads(read_file(release / "manifest.json"))
        # The images, and a model that nobody needs any longer.
        shutil.rmtree(work)
        return {
            "accuracy": curve[-1]["accuracy"],
            "cpu_seconds": curve[-1]["cpu_seconds"],
            "curve": [
                {name: point[name] for name in ("cpu_seconds", "accuracy")}
                for point in curve
            ],
            "code": manifest["lineage"]["code"],
        }

    def _command(self, training: Training, work: Path) -> list[str]:
        seed, passes = str(training.seed), str(training.passes)
        common = [
            *("--folder", str(work), "--name", _NAME, "--seed", seed),
            *self.shape.options(),
        ]
        if training.what != "federated":
            data = self._alone(training, work) if training.site else self.data
            # A site alone may lack classes, and is tested on them all the same.
            alone = ("train", "--allow-empty", "--data", data, "--epochs", passes)
            return [_PROVIDER, *alone, *common]
        dealt = ("--partition", training.partition, "--partition-seed", seed)
        return [
            *(_PROVIDER, "train-sites", "--sites", str(training.sites), *dealt),
            *("--data", self.data, "--rounds", passes, "--epochs", "1", *common),
        ]

    def _alone(self, training: Training, work: Path) -> str:
        """One site's images, again and again until they are as many as all have.

        So a pass is as much work as anybody's, and it is tested as often.
        """
        train, test = self.splits
        rows = np.resize(self._rows(training), len(train))
        write_images(work / "alone.npz", take(train, rows), test)
        return str(work / "alone.npz")

    def _rows(self, training: Training) -> np.ndarray:
        """The site's own images, as the federation deals them out."""
        train, test = self.splits
        dealt = Partition.parse(training.partition).deal(
            (train.labels, test.labels), training.sites, training.seed
        )
        return dealt[training.site - 1][0]


def _require_same(
    kept: Path, asked: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    if differ := [name for name in asked if found.get(name) != asked[name]]:
        raise ConfigurationError(
            f"{kept} was trained with other options: {', '.join(differ)}; "
            "give --keep another folder"
        )


def _described(run: Mapping[str, Any]) -> str:
    return f"{run['accuracy']:.1%} after {run['cpu_seconds']:,.0f} CPU-seconds"
