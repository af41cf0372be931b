"""A budget that ends in the midst of its owner's requests, over the real wire."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.errors import BudgetSpent
from core.rpc.errors import remote_errors
from core.rpc.identity import SpiffeId
from orchestrator.registry import budgets
from orchestrator.registry.budgets import Budget
from parties.data_owner.inference import budget_errors
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.integration.hub import LONG_S, Hub, open_hub, question
from tests.unit.orchestrator.ledger import ALDER_ID, BIRCH_ID, MODEL

REQUESTS = 24
BUDGET = 9


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with open_hub(tmp_path) as hub, hub.serving():
        hub.engine.let_go_on(1000)
        yield hub


def limit(hub: Hub, images: int) -> None:
    with hub.ledger.change() as change:
        budgets.replace_budget(change, str(ALDER_ID), MODEL, Budget(images), None)


def ask(stub: GRPCInferenceServiceStub, owner: SpiffeId) -> str:
    """How it ended, as the owner's client is told."""
    try:
        with budget_errors(), remote_errors("cloud"):
            stub.ModelInfer(question(owner), timeout=LONG_S)
    except BudgetSpent as error:
        return error.kind
    return ""


def test_exactly_the_budget_is_released_and_all_is_on_record(hub: Hub) -> None:
    limit(hub, BUDGET)
    with (
        hub.inference_server(),
        hub.asking(ALDER_ID) as stub,
        ThreadPoolExecutor(8) as pool,
    ):
        said = Counter(pool.map(ask, [stub] * REQUESTS, [ALDER_ID] * REQUESTS))

    assert said == {"": BUDGET, "BudgetSpent": REQUESTS - BUDGET}
    released = hub.ledger.entries("inference")
    refused = hub.ledger.entries("inference.refused")
    assert sum(int(entry.subject["images"]) for entry in released) == BUDGET
    assert [entry.subject["refusal"] for entry in refused] == (
        ["BudgetSpent"] * (REQUESTS - BUDGET)
    )
    assert max(e.index for e in released) < min(e.index for e in refused)
    assert hub.ledger.images_used() == BUDGET


def test_a_raise_is_heard_at_once_and_others_have_budgets_of_their_own(
    hub: Hub,
) -> None:
    limit(hub, 1)
    with (
        hub.inference_server(),
        hub.asking(ALDER_ID) as alder,
        hub.asking(BIRCH_ID) as birch,
    ):
        first = [ask(alder, ALDER_ID) for _ in range(2)]
        others = [ask(birch, BIRCH_ID) for _ in range(2)]
        limit(hub, 2)

        assert first == ["", "BudgetSpent"]
        assert others == ["", ""]
        assert [ask(alder, ALDER_ID) for _ in range(2)] == ["", "BudgetSpent"]
