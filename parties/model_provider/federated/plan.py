"""What is trained, over which sites and how: one flat record, as Flower passes it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Self

from core.architecture import MAX_SIZE, Architecture
from core.datasets import image_size
from core.datasets.partition import Partition
from core.errors import ConfigurationError
from core.shield import ShieldPlan
from core.training import OptimiserName, Recipe

Scalar = bool | int | float | str
# As a plan has it that is to take its seed from the operating system.
NO_SEED: Final = -1
# A manifest names each of them, and must stay small.
MOST_SITES: Final = 128
STRATEGIES: Final = ("fedavg", "fedprox", "fedadam", "fedmedian", "fedtrimmedavg")
# A median of two is their mean.
_LEAST_ROBUST: Final = 3


@dataclass(frozen=True, slots=True)
class FederatedPlan:
    """The model, the sites, the rounds and what a site does in each.

    `epochs` are those of a site in one round. `max_lr` is the rate of the first round;
    it falls by half a cosine until the last. `min_sites` is how many must be there for
    a round; 0: all of them.
    """

    name: str = "classifier"
    data: str = "digits"
    sites: int = 3
    partition: str = "iid"
    partition_seed: int = 0
    rounds: int = 6
    strategy: str = "fedavg"
    min_sites: int = 0
    proximal_mu: float = 0.01
    server_lr: float = 0.01
    trim: float = 0.34
    hidden: int = 128
    depth: int = 4
    kernel_size: int = 5
    patch_size: int = 4
    epochs: int = 1
    batch: int = 128
    optimiser: str = "adamw"
    max_lr: float = 0.01
    weight_decay: float = 0.01
    pad: int = 4
    flip: bool = True
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    seed: int = NO_SEED
    # What pictures are fitted to, as `core.datasets.image_size` reads it, and by way of
    # what; nothing said: as the data has it.
    image_size: str = ""
    resize: int = 0
    shield: str = "none"

    def __post_init__(self) -> None:
        _require_range("sites", self.sites, 2, MOST_SITES)
        _require_range("min_sites", self.min_sites, 0, self.sites)
        _require_range("rounds", self.rounds, 1, 100_000)
        _require_range("resize", self.resize, 0, MAX_SIZE)
        image_size(self.image_size)
        _require_range("partition_seed", self.partition_seed, 0, 2**63 - 1)
        _require_one_of("strategy", self.strategy, STRATEGIES)
        _require_one_of("optimiser", self.optimiser, ("adamw", "sgd"))
        _require_robust(self)
        for name in ("proximal_mu", "server_lr"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}: expected a number above 0")
        Partition.parse(self.partition)
        ShieldPlan.parse(self.shield)
        self.recipe(self.max_lr, 0)

    @classmethod
    def read(cls, config: Mapping[str, object]) -> Self:
        """Read what `to_config` wrote; what else is there is not the plan's."""
        types = {name: type(value) for name, value in asdict(cls()).items()}
        found = {name: config.get(_key(name)) for name in types}
        for name, value in found.items():
            if type(value) not in _accepted(types[name]):
                raise ConfigurationError(
                    f"{_key(name)}: expected {types[name].__name__}, got {value!r:.40}"
                )
        return cls(**{name: types[name](value) for name, value in found.items()})

    def to_config(self) -> dict[str, Scalar]:
        """Write it as Flower's run configuration."""
        return {_key(name): value for name, value in asdict(self).items()}

    @property
    def quorum(self) -> int:
        """How many sites must be there for a round."""
        return self.min_sites or self.sites

    def recipe(self, lr: float, seed: int) -> Recipe:
        """What a site does in a round."""
        return Recipe(
            epochs=self.epochs,
            batch=self.batch,
            max_lr=lr,
            weight_decay=self.weight_decay,
            pad=self.pad,
            flip=self.flip,
            seed=seed,
            mixup=self.mixup,
            cutmix=self.cutmix,
            label_smoothing=self.label_smoothing,
        )

    def architecture(self, size: tuple[int, int, int], classes: int) -> Architecture:
        """The network for images of this height, width and number of channels.

        It reads pictures; `shielded` makes it one that reads what a shield leaves.
        """
        height, width, channels = size
        return Architecture(
            hidden=self.hidden,
            depth=self.depth,
            kernel_size=self.kernel_size,
            patch_size=self.patch_size,
            channels=channels,
            height=height,
            width=width,
            classes=classes,
        )


def optimiser_name(text: object) -> OptimiserName:
    """Check an optimiser's name that came over the wire."""
    _require_one_of("optimiser", str(text), ("adamw", "sgd"))
    return "sgd" if text == "sgd" else "adamw"


def _key(name: str) -> str:
    return name.replace("_", "-")


def _accepted(wanted: type) -> tuple[type, ...]:
    # TOML and a command line write 1 for 1.0.
    return (float, int) if wanted is float else (wanted,)


def _require_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigurationError(f"{name}: expected {least} to {most}, got {value}")


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(
            f"{name}: expected one of {', '.join(known)}, got {value!r:.40}"
        )


def _require_robust(plan: FederatedPlan) -> None:
    """Refuse a robust strategy that would leave nobody out."""
    if plan.strategy in {"fedmedian", "fedtrimmedavg"} and plan.quorum < _LEAST_ROBUST:
        raise ConfigurationError(
            f"{plan.strategy}: expected at least {_LEAST_ROBUST} sites in every round"
        )
    if plan.strategy == "fedtrimmedavg":
        if not 0 <= plan.trim < 0.5:  # noqa: PLR2004  from both ends: half is all
            raise ConfigurationError("trim: expected a share from 0 to below 0.5")
        if int(plan.trim * plan.quorum) == 0:
            raise ConfigurationError(
                f"trim: {plan.trim:g} of {plan.quorum} sites leaves none out;"
                f" expected at least {1 / plan.quorum:.3f}"
            )
