"""Which engine computes, by the name that `federation.yaml` gives it.

An engine's packages are imported when it is chosen and not before.
"""

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

import numpy as np

from core.architecture import Architecture
from core.errors import ConfigurationError
from parties.inference_server.engine import Backbone, Engine
from parties.inference_server.engines.backbone import EmbeddedBackbone
from parties.inference_server.engines.speed import images_per_s

log = logging.getLogger(__name__)

DEFAULT: Final = "onnxruntime"
AUTO: Final = "auto"

# Each with its module, its class, what more it is told, and the extra that installs it.
_ENGINES: Final[Mapping[str, tuple[str, str, dict[str, Any], str]]] = {
    "onnxruntime": ("onnxruntime_engine", "OnnxRuntimeEngine", {}, "server"),
    "openvino": ("openvino_engine", "OpenVinoEngine", {}, "openvino"),
    "openvino-bfloat16": (
        "openvino_engine",
        "OpenVinoEngine",
        {"precision": "bfloat16"},
        "openvino",
    ),
    "torch": ("torch_engine", "TorchEngine", {}, "provider"),
}
NAMES: Final = (AUTO, *_ENGINES)

# What `auto` may take. Not bfloat16: who wants another answer asks for it. Not torch:
# once loaded, its 900 MB and its threads stay, even where it was measured and left.
_MEASURED: Final = ("onnxruntime", "openvino")
_MEASURE_S: Final = 2.0
_BATCH: Final = 32


def engine_named(name: str, threads: int, at_once: int = 1) -> Engine:
    """Make an engine that computes with so many threads, several batches at once.

    Raises:
        ConfigurationError: there is no such engine, or its package is not installed.
    """
    if name == AUTO:
        return AutoEngine(threads, at_once=at_once)
    if name not in _ENGINES:
        raise ConfigurationError(
            f"engine: expected one of {', '.join(NAMES)}, got {name!r:.40}"
        )
    module, kind, more, extra = _ENGINES[name]
    try:
        found = import_module(f"parties.inference_server.engines.{module}")
    except ImportError as error:
        raise ConfigurationError(
            f"engine {name}: {error.name or error} is missing; "
            f"install keymixer[{extra}]"
        ) from error
    if module == "openvino_engine":
        more = {**more, "at_once": at_once}
    engine: Engine = getattr(found, kind)(threads=threads, **more)
    return engine


class AutoEngine:
    """Takes the fastest engine for the first backbone, and stays with it."""

    def __init__(
        self,
        threads: int,
        measure: Callable[..., Mapping[str, float]] = images_per_s,
        names: tuple[str, ...] = _MEASURED,
        *,
        at_once: int = 1,
    ) -> None:
        self._measure = measure
        self._engines = _installed(names, threads, at_once)
        self._chosen: Engine | None = None

    def load(
        self, architecture: Architecture, tensors: Mapping[str, np.ndarray]
    ) -> Backbone:
        if self._chosen is not None:
            return self._chosen.load(architecture, tensors)
        ready = {n: e.load(architecture, tensors) for n, e in self._engines.items()}
        name = self._fastest(ready, architecture)
        self._chosen = self._engines[name]
        return ready[name]

    def _fastest(
        self, ready: Mapping[str, Backbone], architecture: Architecture
    ) -> str:
        networks = {
            name: backbone.network
            for name, backbone in ready.items()
            if isinstance(backbone, EmbeddedBackbone)
        }
        rates = self._measure(networks, architecture, _BATCH, _MEASURE_S)
        fastest = max(rates, key=rates.__getitem__)
        seen = {name: round(rate) for name, rate in rates.items()}
        log.info(
            "engine chosen",
            extra={"engine": fastest, "batch": _BATCH, "images_per_s": seen},
        )
        return fastest


def _installed(names: tuple[str, ...], threads: int, at_once: int) -> dict[str, Engine]:
    """Make those whose packages are here; raise the first one's error if none is."""
    found, missing = {}, []
    for name in names:
        try:
            found[name] = engine_named(name, threads, at_once)
        except ConfigurationError as error:
            missing.append(error)
    if not found:
        raise missing[0]
    return found
