"""Ray Serve: one replica that batches, behind its HTTP proxy."""

import os
import signal

import plain
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=128,
    ray_actor_options={
        "num_cpus": 1,
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}},
    },
)
class Plain:
    def __init__(self) -> None:
        self.model = plain.load()

    @serve.batch(
        max_batch_size=plain.MAX_BATCH, batch_wait_timeout_s=plain.BATCH_DELAY_S
    )
    async def answer(self, requests: list[bytes]) -> list[bytes]:
        return plain.answer(self.model, requests)

    async def __call__(self, request: Request) -> Response:
        return Response(await self.answer(await request.body()))


if __name__ == "__main__":
    ray.init(
        num_cpus=2,
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        _temp_dir=os.environ["RAY_FOLDER"],
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Plain.bind(), route_prefix="/")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
