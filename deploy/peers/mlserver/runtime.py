"""MLServer: adaptive batching by its own loop, raw tensors over gRPC."""

import plain
import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Plain(MLModel):
    async def load(self) -> bool:
        self.model = plain.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = NumpyCodec.decode_input(payload.inputs[0])
        logits = plain.forward(self.model, torch.from_numpy(images.copy())).numpy()
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output("logits", logits)],
        )
