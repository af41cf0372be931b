"""What is counted, read back with Prometheus' own parser."""

import urllib.request

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from core.errors import ConfigurationError
from parties.inference_server.metrics import PrometheusMeter, exported


def fetched(address: str) -> dict[str, float]:
    """Every sample by its name; those with a label by name and label's value."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_is_told_is_what_is_fetched() -> None:
    registry = CollectorRegistry()
    meter = PrometheusMeter(registry)
    meter.batched(images=5, requests=3, owners=2, compute_s=0.02)
    meter.batched(images=1, requests=1, owners=1, compute_s=0.01)
    meter.answered(queue_s=0.5, audit_s=0.004, received=300, sent=40)
    meter.refused("TooFast")
    with exported(registry, "127.0.0.1:0") as address:
        found = fetched(address)

    assert (found["keymixer_batch_images_sum"], 2) == (
        6,
        found["keymixer_batch_images_count"],
    )
    assert found["keymixer_batch_requests_sum"] == 4
    assert found["keymixer_batch_owners_sum"] == 3
    assert found["keymixer_compute_seconds_sum"] == pytest.approx(0.03)
    assert found["keymixer_answers_total"] == 1
    assert found["keymixer_queue_seconds_sum"] == 0.5
    assert found["keymixer_audit_seconds_sum"] == 0.004
    assert found["keymixer_received_bytes_total"] == 300
    assert found["keymixer_sent_bytes_total"] == 40
    assert found["keymixer_refusals_total/TooFast"] == 1


def test_after_the_block_nobody_listens() -> None:
    with exported(CollectorRegistry(), "127.0.0.1:0") as address:
        fetched(address)
    with pytest.raises(OSError, match="refused"):
        fetched(address)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:80", "example.org:80"])
def test_without_tls_nobody_else_may_read_them(address: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="TLS"),
        exported(CollectorRegistry(), address),
    ):
        pass


def test_an_address_that_is_taken_is_said() -> None:
    with exported(CollectorRegistry(), "127.0.0.1:0") as address:
        twice = exported(CollectorRegistry(), address)
        with pytest.raises(ConfigurationError, match="cannot listen"), twice:
            pass
