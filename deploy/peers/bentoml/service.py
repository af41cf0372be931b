"""BentoML: adaptive batching of requests whose body is raw bytes."""

from pathlib import Path

import bentoml
import numpy as np
import plain


@bentoml.service(workers=1, traffic={"timeout": 120, "max_concurrency": 128})
class Plain:
    def __init__(self) -> None:
        self.model = plain.load()

    @bentoml.api(
        batchable=True,
        max_batch_size=plain.MAX_BATCH,
        # A limit of the whole wait; how long to gather, it finds out by itself.
        max_latency_ms=60_000,
    )
    def answer(self, requests: list[Path], /) -> list[list[float]]:
        bodies = [request.read_bytes() for request in requests]
        answers = plain.answer(self.model, bodies)
        return [np.frombuffer(logits, "<f4").tolist() for logits in answers]
