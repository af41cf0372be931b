"""Sites that train nothing: each answers with the arrays it was given."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from numpy import ndarray

from parties.model_provider.federated.in_process import InProcessGrid, in_process
from parties.model_provider.federated.moments import to_moments
from parties.model_provider.federated.plan import FederatedPlan
from parties.model_provider.federated.records import pack_state
from parties.model_provider.federated.strategy import Round, Rounds, Standing

MEAN, VARIANCE = "norm.running_mean", "norm.running_var"


def state(seed: int, shift: float = 0.0) -> dict[str, ndarray]:
    """A weight of two axes, and what one BatchNorm remembers."""
    draws = np.random.default_rng(seed)
    drawn = {
        "head.weight": draws.standard_normal((3, 2)) + shift,
        MEAN: draws.standard_normal(4) + shift,
        VARIANCE: draws.random(4) + 0.1,
    }
    return {name: array.astype(np.float32) for name, array in drawn.items()}


def client(answers: Mapping[int, Mapping[str, ndarray]]) -> ClientApp:
    """Answers by the number of the site; it has 10 images times that number."""
    app = ClientApp()

    def reply(message: Message, context: Context, fields: dict[str, Any]) -> Message:
        number = int(context.node_config["partition-id"]) + 1
        content = RecordDict(
            {
                "metrics": MetricRecord({"num-examples": 10 * number, **fields}),
                "site": ConfigRecord({"site": f"site-{number}"}),
            }
        )
        if "loss" in fields:
            content["arrays"] = pack_state(to_moments(answers[number]))
        return Message(content, reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return reply(message, context, {"loss": 1.0, "batches": 2})

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"]) + 1
        return reply(message, context, {"accuracy": number / 10})

    return app


def play(
    plan: FederatedPlan,
    answers: Mapping[int, Mapping[str, ndarray]],
    begin: Standing,
    rounds: int = 1,
) -> list[tuple[Standing, Round]]:
    """Go through some rounds; return what each led to."""
    with grid_of(plan, client(answers)) as grid:
        return play_on(grid, plan, begin, rounds)


def play_on(
    grid: Grid, plan: FederatedPlan, begin: Standing, rounds: int = 1
) -> list[tuple[Standing, Round]]:
    """The same over a grid that is there already."""
    told: list[tuple[Standing, Round]] = []
    strategy = Rounds(
        plan, begin, lambda _: ConfigRecord(), lambda *each: told.append(each)
    )
    strategy.start(grid, pack_state(begin.state), num_rounds=rounds)
    return told


@contextmanager
def grid_of(plan: FederatedPlan, app: ClientApp) -> Iterator[InProcessGrid]:
    """A grid that answers in another order than it is asked."""
    with in_process(plan, app) as grid:
        in_order = grid.send_and_receive

        def backwards(messages: Any, *, timeout: float | None = None) -> Any:
            return list(in_order(messages, timeout=timeout))[::-1]

        grid.send_and_receive = backwards  # type: ignore[method-assign]
        yield grid
