"""Flower's own strategies by name, and the round that is built around one of them.

Flower has no strategy that tells weights from what BatchNorm measures. `Rounds` gives
each its own: a step of Adam on a variance, for one, would be nonsense.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    Strategy,
)
from numpy import ndarray

from parties.model_provider.federated.errors import SiteFailedError
from parties.model_provider.federated.moments import from_moments, is_statistic
from parties.model_provider.federated.plan import FederatedPlan
from parties.model_provider.federated.records import (
    ARRAYS,
    CONFIG,
    CPU_SECONDS,
    EXAMPLES,
    METRICS,
    pack_state,
    read_state,
    site_name,
)

Arrays = Mapping[str, ndarray]

_MOMENTS: Final = ("m_t", "v_t")


@dataclass(frozen=True, slots=True)
class SiteRound:
    """What one site gave in one round; without `accuracy`: it was not there to test."""

    site: str
    examples: int
    loss: float
    batches: int
    accuracy: float | None = None
    tested: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """A finished round: the sites that took part, and what they made of the model."""

    number: int
    sites: tuple[SiteRound, ...]
    seconds: float = 0.0
    # What training took of the sites' processors, in all.
    cpu_seconds: float = 0.0

    @property
    def loss(self) -> float:
        """The mean loss over all training images."""
        total = sum(each.examples for each in self.sites)
        return sum(each.loss * each.examples for each in self.sites) / total

    @property
    def accuracy(self) -> float:
        """The share of all test images, 0..1, as one look at all of them would say."""
        tested = sum(each.tested for each in self.sites)
        right = sum((each.accuracy or 0.0) * each.tested for each in self.sites)
        return right / tested if tested else 0.0

    @property
    def batches(self) -> int:
        """How many batches BatchNorm has seen, over all sites."""
        return sum(each.batches for each in self.sites)


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """All that the next round needs: the model, and what the strategy remembers."""

    round: int
    state: Arrays = field(repr=False)
    memory: Arrays = field(default_factory=dict, repr=False)


OnRound = Callable[[Standing, Round], None]
Configure = Callable[[int], ConfigRecord]


class Rounds(Strategy):
    """Rounds over all sites that are there, after those that are done already.

    Answers are put in the order of the sites' names before they are summed up: the same
    answers give the same model, whoever was first.
    """

    def __init__(
        self, plan: FederatedPlan, begin: Standing, configure: Configure, tell: OnRound
    ) -> None:
        self._weights, self._statistics = strategies(plan)
        _remember(self._weights, begin.memory)
        self._done, self._configure, self._tell = begin.round, configure, tell
        self._state: Arrays = begin.state
        self._trained: tuple[SiteRound, ...] = ()
        self._cpu_seconds = 0.0
        self._started = 0.0

    def summary(self) -> None:
        """Let Flower log what it will do."""
        self._weights.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every site the whole model; the strategy sees only its weights."""
        self._started = time.monotonic()
        number = self._done + server_round
        config = self._configure(number)
        weights = pack_state(_only(read_state(RecordDict({ARRAYS: arrays})), False))
        messages = self._weights.configure_train(number, weights, config, grid)
        return [_with_all(message, arrays) for message in messages]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Have weights and moments summed up apart, and put them together."""
        number = self._done + server_round
        answers = _in_order(replies, number)
        self._trained = tuple(_trained(answer.content) for answer in answers)
        self._cpu_seconds = sum(_cpu_seconds(answer.content) for answer in answers)
        parts = {
            kind: [_part(answer, kind) for answer in answers] for kind in (False, True)
        }
        weights, metrics = self._weights.aggregate_train(number, parts[False])
        moments, _ = self._statistics.aggregate_train(number, parts[True])
        if weights is None or moments is None:
            raise SiteFailedError(f"round {number}: no site answered")
        both = RecordDict({"weights": weights, "moments": moments})
        self._state = from_moments(read_state(both))
        return pack_state(self._state), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Have every site score the new model."""
        number = self._done + server_round
        config = self._configure(number)
        return self._weights.configure_evaluate(number, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """The round is done: tell it, with what is needed to go on from here."""
        number = self._done + server_round
        answers = _in_order(replies, number)
        metrics = self._weights.aggregate_evaluate(number, answers)
        sites = _with_scores(self._trained, [answer.content for answer in answers])
        seconds = round(time.monotonic() - self._started, 3)
        standing = Standing(number, self._state, _memory(self._weights))
        cpu = round(self._cpu_seconds, 3)
        self._tell(standing, Round(number, sites, seconds, cpu))
        return metrics


def strategies(plan: FederatedPlan) -> tuple[FedAvg, FedAvg]:
    """One of Flower's for the weights, and one for BatchNorm's moments.

    Moments are averaged; where a strategy leaves out what is far off, theirs too.
    """
    common: dict[str, Any] = {
        "min_train_nodes": plan.quorum,
        "min_evaluate_nodes": plan.quorum,
        "min_available_nodes": plan.quorum,
        "weighted_by_key": EXAMPLES,
        "arrayrecord_key": ARRAYS,
        "configrecord_key": CONFIG,
    }
    made: Mapping[str, Callable[[], FedAvg]] = {
        "fedavg": lambda: FedAvg(**common),
        "fedprox": lambda: FedProx(**common, proximal_mu=plan.proximal_mu),
        "fedadam": lambda: FedAdam(**common, eta=plan.server_lr),
        "fedmedian": lambda: FedMedian(**common),
        "fedtrimmedavg": lambda: FedTrimmedAvg(**common, beta=plan.trim),
    }
    robust = plan.strategy in {"fedmedian", "fedtrimmedavg"}
    return made[plan.strategy](), made[plan.strategy if robust else "fedavg"]()


def _in_order(replies: Iterable[Message], number: int) -> list[Message]:
    answers = list(replies)
    for answer in answers:
        if answer.has_error():
            raise SiteFailedError(f"round {number}: {answer.error.reason}")
    return sorted(answers, key=lambda answer: site_name(answer.content))


def _only(state: Arrays, statistics: bool) -> dict[str, ndarray]:
    return {name: a for name, a in state.items() if is_statistic(name) == statistics}


def _part(answer: Message, statistics: bool) -> Message:
    """The same answer, with half of its arrays."""
    arrays = pack_state(_only(read_state(answer.content), statistics))
    metrics = answer.content.metric_records[METRICS]
    part = copy(answer)
    part.content = RecordDict({ARRAYS: arrays, METRICS: metrics})
    return part


def _with_all(message: Message, arrays: ArrayRecord) -> Message:
    config = message.content.config_records[CONFIG]
    message.content = RecordDict({ARRAYS: arrays, CONFIG: config})
    return message


def _trained(content: RecordDict) -> SiteRound:
    metrics: Mapping[str, Any] = content.metric_records[METRICS]
    return SiteRound(
        site=site_name(content),
        examples=int(metrics[EXAMPLES]),
        loss=float(metrics["loss"]),
        batches=int(metrics["batches"]),
    )


def _cpu_seconds(content: RecordDict) -> float:
    metrics: Mapping[str, Any] = content.metric_records[METRICS]
    return float(metrics.get(CPU_SECONDS, 0.0))


def _with_scores(
    trained: Sequence[SiteRound], answers: Sequence[RecordDict]
) -> tuple[SiteRound, ...]:
    scores: dict[str, Mapping[str, Any]] = {
        site_name(content): content.metric_records[METRICS] for content in answers
    }
    return tuple(
        SiteRound(
            each.site,
            each.examples,
            each.loss,
            each.batches,
            float(scores[each.site]["accuracy"]),
            int(scores[each.site][EXAMPLES]),
        )
        if each.site in scores
        else each
        for each in trained
    )


def _memory(strategy: FedAvg) -> dict[str, ndarray]:
    """What Adam remembers from round to round, by names of its own."""
    return {
        f"{moment}:{name}": array
        for moment in _MOMENTS
        for name, array in (getattr(strategy, moment, None) or {}).items()
    }


def _remember(strategy: FedAvg, memory: Arrays) -> None:
    for moment in _MOMENTS:
        found = {
            name.removeprefix(f"{moment}:"): array
            for name, array in memory.items()
            if name.startswith(f"{moment}:")
        }
        if found:
            setattr(strategy, moment, found)
