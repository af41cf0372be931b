"""The Flower ClientApp: what a site answers to a question, a round, a look at its test.

Flower finds `app` here by `[tool.flwr.app.components]` in `pyproject.toml`.
"""

import time

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from core.shield import ShieldPlan
from parties.model_provider.federated.moments import to_moments
from parties.model_provider.federated.records import (
    ARRAYS,
    CPU_SECONDS,
    EXAMPLES,
    METRICS,
    SITE,
    Card,
    pack_card,
    pack_state,
    read_state,
    read_task,
)
from parties.model_provider.federated.site import (
    Site,
    evaluate_site,
    open_site,
    train_site,
)

app = ClientApp()


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Say what the site has: counts, digests, sums of pixels; no image.

    For a high-pass the sums of blocks and of their products are needed, too.
    """
    run = context.run_config
    highpass = ShieldPlan.parse(str(run.get("shield", "none"))).kind == "highpass"
    card = Card.of(_site(context), int(run["patch-size"]) if highpass else 0)
    return Message(pack_card(card), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the round's weights on the site's images; send back what they became."""
    site, task = _site(context), read_task(message.content)
    began = time.process_time()
    state, losses = train_site(site, task, read_state(message.content))
    metrics = MetricRecord(
        {
            EXAMPLES: len(site.train),
            "batches": len(losses),
            "loss": sum(losses) / len(losses),
            CPU_SECONDS: time.process_time() - began,
        }
    )
    arrays = pack_state(to_moments(state))
    answer = RecordDict({ARRAYS: arrays, METRICS: metrics, SITE: _by(site)})
    return Message(answer, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the round's model on the site's own test images."""
    site, task = _site(context), read_task(message.content)
    accuracy = evaluate_site(site, task, read_state(message.content))
    metrics = MetricRecord({EXAMPLES: len(site.test), "accuracy": accuracy})
    return Message(RecordDict({METRICS: metrics, SITE: _by(site)}), reply_to=message)


def _site(context: Context) -> Site:
    return open_site(context.node_config, context.run_config)


def _by(site: Site) -> ConfigRecord:
    return ConfigRecord({"site": site.name})
