"""LitServe: one worker, one front process, bytes in and out of both."""

import os
from typing import Annotated

import litserve
import plain
from fastapi import Body, Response


class Plain(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = plain.load()

    def decode_request(self, request: Annotated[bytes, Body()]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: list[bytes]) -> list[bytes]:
        return plain.answer(self.model, x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    api = Plain(max_batch_size=plain.MAX_BATCH, batch_timeout=plain.BATCH_DELAY_S)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="warning",
        generate_client_file=False,
    )
