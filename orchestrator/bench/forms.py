"""How images are written into a request, and logits read from its answer."""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32

from protos.open_inference_pb2 import ModelInferRequest, ModelInferResponse

Images = Float32[np.ndarray, "n c h w"]
Logits = Float32[np.ndarray, "n classes"]

MODEL: Final = "convmixer"


@dataclass(frozen=True, slots=True)
class Form:
    """One form of request and answer; all work on whole messages."""

    write: Callable[[Images], bytes]
    # The bytes of the answer, and for how many images they are.
    read: Callable[[bytes, int], Logits]
    # What is sent when a request that was written before is asked once more.
    anew: Callable[[bytes], bytes] = lambda body: body


def _raw(images: Images) -> bytes:
    return np.ascontiguousarray(images, "<f4").tobytes()


def _rows(numbers: bytes, images: int) -> Logits:
    return np.frombuffer(numbers, "<f4").reshape(images, -1)


def _listed(text: bytes, images: int) -> Logits:
    return np.asarray(json.loads(text), "<f4").reshape(images, -1)


def _open_inference(images: Images) -> bytes:
    tensor = ModelInferRequest.InferInputTensor(
        name="images", datatype="FP32", shape=images.shape
    )
    return ModelInferRequest(
        model_name=MODEL, inputs=[tensor], raw_input_contents=[_raw(images)]
    ).SerializeToString()


def _open_answer(message: bytes, images: int) -> Logits:
    answer = ModelInferResponse.FromString(message)
    return _rows(answer.raw_output_contents[0], images)


def _named_anew(request: bytes) -> bytes:
    """Draw a question's name, as every client of ours does for each question.

    Messages that follow each other are read as one, by the rules of protobuf.
    """
    name = secrets.token_hex(32)
    drawn = ModelInferRequest()
    drawn.parameters["question_id"].string_param = name
    return request + drawn.SerializeToString()


FORMS: Final = {
    "float32": Form(_raw, _rows),
    "float32-json": Form(_raw, _listed),
    "open-inference": Form(_open_inference, _open_answer),
    "keymixer": Form(_open_inference, _open_answer, _named_anew),
}
