"""What comes in pages is read to the last one, before anything is concluded from it."""

from pathlib import Path

import pytest

from orchestrator.registry import store
from parties.registry import GrpcRegistry
from tests.integration.hub import open_hub, question
from tests.unit.orchestrator.ledger import CLOUD_ID, HUB_ID, OWNERS, key_id


@pytest.fixture(autouse=True)
def _short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LARGEST_PAGE", 1)


def test_a_party_reads_every_page_of_what_is_issued(tmp_path: Path) -> None:
    with (
        open_hub(tmp_path) as hub,
        hub.serving(),
        hub.cast.channel(CLOUD_ID, HUB_ID) as channel,
    ):
        registry = GrpcRegistry(channel)
        found = [issued.key_id for issued in registry.issued_models()]
        (one,) = registry.issued_models(key_id(OWNERS[1]), 1)

    assert found == [key_id(owner) for owner in OWNERS]
    assert one.key_id == key_id(OWNERS[1])


def test_nothing_is_deleted_for_being_on_a_later_page(tmp_path: Path) -> None:
    with open_hub(tmp_path) as hub, hub.serving(), hub.inference_server():
        hub.engine.let_go_on(len(OWNERS))
        for owner in OWNERS:
            with hub.asking(owner) as stub:
                assert stub.ModelInfer(question(owner)).outputs
