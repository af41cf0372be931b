"""Federated training from the sites' introductions to a signed release.

It asks everything of a Flower `Grid`, and knows not whether the sites are in this
process, in Flower's simulation, or in other organisations.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from core.architecture import Architecture
from core.canonical import canonical
from core.datasets import name_of
from core.datasets.partition import united
from core.preprocessing import Preprocessing
from core.principal import BlockMoments, added
from core.rpc.party import ensure_signing_key
from core.shield import Shield, ShieldPlan, shield_from, shielded
from core.training import require_every_class
from core.wire import file_digest
from parties.model_provider.federated.ending import (
    ROUNDS,
    SPLIT,
    Finished,
    read_finished,
)
from parties.model_provider.federated.errors import SiteFailedError, SitesDisagreeError
from parties.model_provider.federated.patience import PatientGrid
from parties.model_provider.federated.plan import NO_SEED, FederatedPlan
from parties.model_provider.federated.records import (
    Card,
    pack_state,
    pack_task,
    read_card,
)
from parties.model_provider.federated.site import (
    Task,
    mixed_seed,
    model_from,
    state_of,
)
from parties.model_provider.federated.standing import (
    keep_round,
    keep_split,
    last_round,
    read_split,
    require_site,
)
from parties.model_provider.federated.strategy import Round, Rounds, Standing
from parties.model_provider.place import Place, place_of
from parties.model_provider.release import Epoch, write_release
from parties.model_provider.training import (
    FROM_THE_SYSTEM,
    PixelSums,
    Trained,
    chosen_seed,
    code_version,
    first_model,
    preprocessing_from,
)
from parties.model_provider.weights import release_of

# An event's name, and what it says.
Tell = Callable[[str, Mapping[str, Any]], None]

# How long one site may take for its part of a round.
_ANSWER_S: Final = 3600.0
_POLL_S: Final = 1.0
_LEAST_IMAGES: Final = 2


@dataclass(frozen=True, slots=True)
class _Agreed:
    """What all sites have in common, and their split manifest."""

    size: tuple[int, int, int]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    sites: tuple[Mapping[str, Any], ...]
    shield: Shield | None = None

    @classmethod
    def on(cls, cards: Sequence[Card], plan: FederatedPlan) -> "_Agreed":
        size, classes = cards[0].size, united([card.classes for card in cards])
        sums = [_added(each) for each in zip(*(c.sums for c in cards), strict=True)]
        found = preprocessing_from(size[:2], sums)
        preprocessing = replace(found, resize=plan.resize or None)
        require_every_class([_count(cards, name) for name in classes], classes)
        shield = ShieldPlan.parse(plan.shield).make(
            preprocessing, plan.patch_size, _moments_of(cards)
        )
        described = tuple(map(_described, cards))
        return cls(size, classes, preprocessing, described, shield)

    @classmethod
    def read(cls, split: Mapping[str, Any]) -> "_Agreed":
        preprocessing = Preprocessing.from_dict(split["preprocessing"])
        size = (preprocessing.height, preprocessing.width, preprocessing.channels)
        sites = tuple(split["sites"])
        shield = None
        if "shield" in split:
            shield = shield_from(split["shield"], preprocessing)
        return cls(size, tuple(split["classes"]), preprocessing, sites, shield)

    def architecture(self, plan: FederatedPlan) -> Architecture:
        """The network that the sites train."""
        whole = plan.architecture(self.size, len(self.classes))
        return shielded(whole, self.shield)

    def manifest(self, plan: FederatedPlan) -> dict[str, Any]:
        """Which images each site has: enough to make the split again, and to check."""
        dealt = {"partition": plan.partition, "partition_seed": plan.partition_seed}
        return {
            **({} if plan.partition == "by-organisation" else dealt),
            "data": name_of(plan.data),
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
            "sites": [dict(site) for site in self.sites],
            **({} if self.shield is None else {"shield": self.shield.to_dict()}),
        }


def train_over_sites(
    grid: Grid,
    plan: FederatedPlan,
    folder: Path,
    tell: Tell = lambda _event, _fields: None,
    *,
    restart: bool = False,
) -> Finished:
    """Train and write a signed release to FOLDER/releases/NAME.

    An unfinished training of the same plan goes on after its last whole round, and ends
    with the weights it would have had.

    Raises:
        TrainingChangedError: the unfinished one had another plan or other images.
        SitesDisagreeError: the sites cannot train one model.
        SiteFailedError: a site answered with an error.
    """
    asked = None if plan.seed == NO_SEED else plan.seed
    grid = PatientGrid(grid, plan.quorum)
    with place_of(folder, plan.name, restart=restart) as place:
        seed = place.begin(plan.to_config(), chosen_seed(asked))
        agreed = _agree(grid, plan, place)
        tell("sites", {"sites": [dict(site) for site in agreed.sites]})
        standing, rounds = last_round(place) or (_first(plan, agreed, seed), ())
        if standing.round == 0:
            keep_round(place, standing, ())
        else:
            tell("resumed", {"round": standing.round, "rounds": plan.rounds})
        training = _Training(plan, agreed, seed, place, tell, list(rounds))
        state = training.run(grid, standing)
        finished = _release(plan, agreed, state, training.rounds, folder)
        place.clear()
    return finished


@dataclass(slots=True)
class _Training:
    """The rounds of one training, as they come in."""

    plan: FederatedPlan
    agreed: _Agreed
    seed: int
    place: Place
    tell: Tell
    rounds: list[Round]
    last: Standing | None = None

    def run(self, grid: Grid, standing: Standing) -> Mapping[str, Any]:
        """Go through the rounds that are left; return the last state."""
        self.last = standing
        if left := self.plan.rounds - standing.round:
            strategy = Rounds(self.plan, standing, self._configure, self._keep)
            first = pack_state(standing.state)
            strategy.start(grid, first, num_rounds=left, timeout=_ANSWER_S)
        return self.last.state

    def _configure(self, number: int) -> ConfigRecord:
        """What sites are told in a round: nothing that only this process remembers."""
        return pack_task(task_of(self.plan, self.agreed, self.seed, number))

    def _keep(self, standing: Standing, done: Round) -> None:
        self.rounds.append(done)
        keep_round(self.place, standing, tuple(self.rounds))
        self.last = standing
        self.tell("round", _told(done, self.plan.rounds))


def task_of(plan: FederatedPlan, agreed: _Agreed, seed: int, number: int) -> Task:
    """The work of one round; its rate falls by half a cosine over the rounds."""
    turn = math.pi * (number - 1) / plan.rounds
    lr = plan.max_lr * (1 + math.cos(turn)) / 2
    return Task(
        architecture=agreed.architecture(plan),
        preprocessing=agreed.preprocessing,
        classes=agreed.classes,
        recipe=plan.recipe(lr, mixed_seed("round", seed, number)),
        optimiser=plan.optimiser,
        shield=agreed.shield,
    )


def _agree(grid: Grid, plan: FederatedPlan, place: Place) -> _Agreed:
    """Have the sites introduce themselves, or check that they are who they were."""
    if (split := read_split(place)) is None:
        agreed = _Agreed.on(_agreeing(introduce(grid, plan.sites)), plan)
        keep_split(place, canonical(agreed.manifest(plan)))
        return agreed
    for card in introduce(grid, plan.quorum):
        require_site(split, _described(card))
    return _Agreed.read(split)


def introduce(grid: Grid, count: int) -> list[Card]:
    """Wait for so many sites, and ask each what it has."""
    while len(nodes := list(grid.get_node_ids())) < count:
        time.sleep(_POLL_S)
    questions = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    answers = list(grid.send_and_receive(questions, timeout=_ANSWER_S))
    if len(answers) < len(nodes):
        raise SiteFailedError(f"{len(nodes) - len(answers)} sites did not answer")
    for answer in answers:
        if answer.has_error():
            raise SiteFailedError(f"a site has no images to offer: {answer.error}")
    cards = [read_card(answer.content) for answer in answers]
    return sorted(cards, key=lambda card: card.site)


def _agreeing(cards: Sequence[Card]) -> Sequence[Card]:
    names = [card.site for card in cards]
    if len(set(names)) < len(names):
        raise SitesDisagreeError(f"two sites have one name: {', '.join(names)}")
    for card in cards:
        # BatchNorm has no variance of one image.
        if card.train < _LEAST_IMAGES:
            raise SitesDisagreeError(
                f"site {card.site}: expected at least {_LEAST_IMAGES} images to learn "
                f"from, got {card.train}"
            )
    if len({card.size for card in cards}) > 1:
        sizes = ", ".join(f"{card.site} {card.size}" for card in cards)
        raise SitesDisagreeError(f"expected images of one size, got {sizes}")
    return cards


def _first(plan: FederatedPlan, agreed: _Agreed, seed: int) -> Standing:
    architecture = agreed.architecture(plan)
    asked = None if plan.seed == NO_SEED else plan.seed
    return Standing(0, state_of(first_model(architecture, asked, seed)))


def _release(
    plan: FederatedPlan,
    agreed: _Agreed,
    state: Mapping[str, Any],
    rounds: Sequence[Round],
    folder: Path,
) -> Finished:
    split = canonical(agreed.manifest(plan))
    architecture = agreed.architecture(plan)
    trained = Trained(
        name=plan.name,
        model=model_from(architecture, state, sum(each.batches for each in rounds)),
        preprocessing=agreed.preprocessing,
        classes=agreed.classes,
        curve=_curve(rounds),
        lineage=_lineage(plan, agreed, rounds, file_digest(split)),
        shield=agreed.shield,
    )
    release = release_of(trained)
    target = folder / "releases" / plan.name
    key = ensure_signing_key(folder)
    told = json.dumps([asdict(each) for each in rounds], indent=2).encode()
    write_release(target, release, trained.curve, key, {SPLIT: split, ROUNDS: told})
    return read_finished(target)


def _lineage(
    plan: FederatedPlan, agreed: _Agreed, rounds: Sequence[Round], split_digest: str
) -> dict[str, Any]:
    """Where the weights come from: every site's data, and who was absent when."""
    named = ("site", "train", "test", "train_digest", "test_digest")
    recipe = asdict(plan)
    unused = ("shield",) if agreed.shield is None else ()
    for name in ("name", "data", "sites", "seed", *unused):
        del recipe[name]
    return {
        "code": f"{code_version()}, flwr {version('flwr')}",
        "data": {
            "name": name_of(plan.data),
            "split_digest": split_digest,
            "sites": [{name: site[name] for name in named} for site in agreed.sites],
        },
        "recipe": recipe,
        "absent": _absent(agreed, rounds),
        "seed": FROM_THE_SYSTEM if plan.seed == NO_SEED else plan.seed,
        "parent": None,
    }


def _absent(agreed: _Agreed, rounds: Iterable[Round]) -> dict[str, list[str]]:
    """The sites that a round went without, by its number; rounds with all: left out."""
    everyone = {str(site["site"]) for site in agreed.sites}
    missing = {
        str(each.number): sorted(everyone - {site.site for site in each.sites})
        for each in rounds
    }
    return {number: sites for number, sites in missing.items() if sites}


def _curve(rounds: Iterable[Round]) -> tuple[Epoch, ...]:
    curve, seconds, cpu = [], 0.0, 0.0
    for each in rounds:
        seconds, cpu = seconds + each.seconds, cpu + each.cpu_seconds
        curve.append(
            Epoch(
                each.number,
                each.loss,
                each.accuracy,
                round(seconds, 3),
                cpu_seconds=round(cpu, 3),
            )
        )
    return tuple(curve)


def _told(done: Round, rounds: int) -> dict[str, Any]:
    return {
        "round": done.number,
        "rounds": rounds,
        "loss": done.loss,
        "accuracy": done.accuracy,
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "sites": [asdict(site) for site in done.sites],
    }


def _count(cards: Iterable[Card], name: str) -> int:
    """How many images to learn from all sites have of a class."""
    return sum(dict(zip(c.classes, c.counts, strict=True)).get(name, 0) for c in cards)


def _described(card: Card) -> dict[str, Any]:
    """A site in the split manifest."""
    counts = zip(card.classes, card.counts, strict=True)
    return {
        "site": card.site,
        "train": card.train,
        "test": card.test,
        "train_digest": card.train_digest,
        "test_digest": card.test_digest,
        "classes": dict(counts),
    }


def _moments_of(cards: Sequence[Card]) -> BlockMoments | None:
    """Those of all sites' blocks; None if one gave none."""
    given = [card.moments for card in cards if card.moments is not None]
    return added(given) if len(given) == len(cards) else None


def _added(sums: Iterable[PixelSums]) -> PixelSums:
    return PixelSums(*(sum(parts) for parts in zip(*sums, strict=True)))
