"""How fast networks are here, measured in turns so that all meet the same noise."""

import time
from collections.abc import Callable, Mapping
from statistics import median

from core.architecture import Architecture
from parties.inference_server.engine import Network, Tokens
from parties.inference_server.engines.agreement import random_tokens


def images_per_s(
    networks: Mapping[str, Network],
    architecture: Architecture,
    batch: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Let them compute in turns for about so long, once at least; give the medians."""
    tokens = random_tokens(architecture, batch, seed=0)
    for network in networks.values():
        network.forward(tokens)  # the first one plans and allocates
    taken: dict[str, list[float]] = {name: [] for name in networks}
    end = clock() + seconds
    while True:
        for name, network in networks.items():
            taken[name].append(_seconds(network, tokens, clock))
        if clock() >= end:
            return {name: batch / median(times) for name, times in taken.items()}


def _seconds(network: Network, tokens: Tokens, clock: Callable[[], float]) -> float:
    began = clock()
    network.forward(tokens)
    return clock() - began
