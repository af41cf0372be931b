"""Which engine computes: the names, what is missing, and what `auto` takes."""

import logging
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import openvino
import pytest

from core.architecture import Architecture
from core.convmixer import take_apart
from core.errors import ConfigurationError
from orchestrator.federation import EngineName
from parties.inference_server import protocol
from parties.inference_server.engine import Logits, Network, Tokens
from parties.inference_server.engines.agreement import agreement
from parties.inference_server.engines.choice import (
    NAMES,
    AutoEngine,
    engine_named,
)
from parties.inference_server.engines.speed import images_per_s
from tests.unit.parties.stage import TINY, Release

ENGINES = "parties.inference_server.engines"


def tensors() -> dict[str, np.ndarray]:
    return take_apart(Release().model)[1]


def without(monkeypatch: pytest.MonkeyPatch, package: str, module: str) -> None:
    """Let a package be missing, also where it was imported before."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{ENGINES}.{module}", raising=False)


def test_a_federation_file_may_name_every_engine() -> None:
    assert set(NAMES) == set(get_args(EngineName))


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="onnxruntime, openvino"):
        engine_named("abacus", 1)


@pytest.mark.parametrize(
    ("package", "module", "name", "extra"),
    [
        ("onnxruntime", "onnxruntime_engine", "onnxruntime", "server"),
        ("openvino", "openvino_engine", "openvino", "openvino"),
        ("openvino", "openvino_engine", "openvino-bfloat16", "openvino"),
        ("torch", "torch_engine", "torch", "provider"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, package: str, module: str, name: str, extra: str
) -> None:
    without(monkeypatch, package, module)

    with pytest.raises(ConfigurationError, match=rf"{package}.*keymixer\[{extra}\]"):
        engine_named(name, 1)


def test_the_server_with_its_default_engine_imports_no_torch() -> None:
    """Its 900 MB and its pool of threads stay away, also when a backbone is loaded."""
    program = f"""
import sys; sys.modules["torch"] = None
import numpy as np
import parties.inference_server.__main__
from core.architecture import Architecture
from parties.inference_server.engines.choice import DEFAULT, engine_named
from {ENGINES}.tensors import drawn
sizes = Architecture(hidden=8, depth=1)
engine_named(DEFAULT, 1).load(sizes, drawn(sizes, seed=1))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def measured(rates: Mapping[str, float]) -> Any:
    """A measurement that is known before, and remembers of whom."""

    def measure(networks: Mapping[str, Network], *_: object) -> dict[str, float]:
        asked.append(set(networks))
        return {name: rates[name] for name in networks}

    asked: list[set[str]] = []
    measure.asked = asked  # type: ignore[attr-defined]
    return measure


@pytest.mark.parametrize("fastest", ["onnxruntime", "openvino"])
def test_auto_takes_the_fastest_and_says_so(
    fastest: str, caplog: pytest.LogCaptureFixture
) -> None:
    measure = measured({"onnxruntime": 10.0, "openvino": 11.0, fastest: 12.4})
    with caplog.at_level(logging.INFO):
        backbone = AutoEngine(1, measure).load(TINY, tensors())

    assert backbone.facts["engine"].startswith(fastest)
    (said,) = [r.__dict__ for r in caplog.records if r.message == "engine chosen"]
    assert said["engine"] == fastest
    assert said["images_per_s"][fastest] == 12
    assert {"onnxruntime", "openvino"} == said["images_per_s"].keys()


def test_auto_measures_once() -> None:
    """A second model does not hold up those who ask the first."""
    measure = measured({"onnxruntime": 10.0, "openvino": 11.0})
    engine = AutoEngine(1, measure)
    engine.load(TINY, tensors())
    again = engine.load(TINY, tensors())

    assert [{"onnxruntime", "openvino"}] == measure.asked
    assert again.facts["engine"].startswith("openvino")


def test_auto_does_with_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "openvino", "openvino_engine")
    backbone = AutoEngine(1, measured({"onnxruntime": 1.0})).load(TINY, tensors())

    assert backbone.facts["engine"].startswith("onnxruntime")
    assert backbone.facts["precision"] == "float32"


def test_auto_with_nothing_installed_names_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, "openvino", "openvino_engine")
    without(monkeypatch, "onnxruntime", "onnxruntime_engine")

    with pytest.raises(ConfigurationError, match=r"keymixer\[server\]"):
        engine_named("auto", 1)


class Timed:
    """A network that takes so many seconds on a clock of its own making."""

    now_s = 0.0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def forward(self, tokens: Tokens) -> Logits:
        Timed.now_s += self.seconds
        return np.zeros((len(tokens), 2), np.float32)


def test_the_rates_are_images_a_second() -> None:
    networks = {"slow": Timed(0.5), "fast": Timed(0.25)}
    rates = images_per_s(networks, TINY, 8, 3.0, clock=lambda: Timed.now_s)

    assert rates == {"slow": 16.0, "fast": 32.0}


class Sums:
    """Two classes: the sum of an image's tokens, and 0."""

    def __init__(self, off: float) -> None:
        self.off = off

    def forward(self, tokens: Tokens) -> Logits:
        sums = tokens.sum(axis=(1, 2, 3)) + np.float32(self.off)
        return np.stack([sums, np.zeros_like(sums)], axis=1)


def test_agreement_tells_of_the_largest_difference_and_of_the_first_class() -> None:
    near = agreement(Sums(0), Sums(1e-3), TINY)
    far = agreement(Sums(0), Sums(1e6), TINY)

    assert near["agreement_with_float32_top1"] == "1.0000"
    assert float(near["agreement_largest_difference"]) == pytest.approx(1e-3, rel=0.1)
    assert 0.3 < float(far["agreement_with_float32_top1"]) < 0.7


def test_bfloat16_is_computed_and_compared_or_refused() -> None:
    """A processor without it would compute in float32 and not say so."""
    engine = engine_named("openvino-bfloat16", 1)
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        with pytest.raises(ConfigurationError, match="not in BF16; choose openvino"):
            engine.load(TINY, tensors())
        return
    facts = engine.load(TINY, tensors()).facts

    assert facts["precision"] == "bfloat16"
    assert float(facts["agreement_with_float32_top1"]) > 0.9
    assert 0 < float(facts["agreement_largest_difference"]) < 0.5


def test_metadata_says_how_a_model_computes() -> None:
    sizes = Architecture(hidden=8, depth=1)
    facts = {"engine": "abacus 1", "precision": "bfloat16"}
    found = protocol.metadata("cells", [1], Release(sizes).manifest, facts)

    assert facts.items() <= dict(found.properties).items()
    assert "keymixer_convmixer" == found.platform
