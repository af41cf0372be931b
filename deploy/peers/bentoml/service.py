"""BentoML: adaptive batching of arrays, which go in and out as raw bytes."""

import functools
from typing import Annotated

import bentoml
import numpy as np
import plain
import torch
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

architecture = functools.cache(plain.architecture)


def read(body: bytes) -> np.ndarray:
    """The array of a body."""
    return plain.images(body, architecture())


# A body of an array is JSON, unless its schema calls it a file: it is bytes then.
Images = Annotated[np.ndarray, BeforeValidator(read), WithJsonSchema({"type": "file"})]
Logits = Annotated[np.ndarray, PlainSerializer(np.ndarray.tobytes)]


@bentoml.service(
    workers=1,
    threads=1,
    traffic={"timeout": 120, "max_concurrency": 128},
    logging={"access": {"enabled": False}},
)
class Plain:
    def __init__(self) -> None:
        self.model = plain.load()

    @bentoml.api(
        batchable=True,
        max_batch_size=plain.MAX_BATCH,
        # A limit of the whole wait; how long to gather, it finds out by itself.
        max_latency_ms=60_000,
    )
    def answer(self, images: Images, /) -> Logits:
        return plain.forward(self.model, torch.from_numpy(images)).numpy()
