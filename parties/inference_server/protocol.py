"""The Open Inference Protocol's messages, read with suspicion and written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32

from core.architecture import Architecture
from core.canonical import canonical
from core.encoding import FP16, UINT8, WIDTHS, decode, require_known, uint8_step
from core.errors import DtypeError, NotFound, ShapeError, TooLargeError
from core.manifest import Manifest
from parties.inference_server.engine import NO_FACTS
from parties.inference_server.errors import (
    MissingParameterError,
    QuestionIdError,
    WrongTensorsError,
)
from parties.inference_server.records import Answer, Receipt
from protos import open_inference_pb2 as pb

INPUT: Final = "encrypted_blocks"
OUTPUT: Final = "logits"
DATATYPE: Final = "FP32"
PLATFORM: Final = "keymixer_convmixer"

QUESTION_ID: Final = "question_id"
_QUESTION_ID: Final = re.compile("[0-9a-f]{64}")
KEY_PARAMETERS: Final = "key_id:string,key_version:int64"

_INPUT_AXES: Final = 4
_LONGEST_ID: Final = 128

_Infer = pb.ModelInferRequest
_Tensor = pb.ModelInferRequest.InferInputTensor
_Metadata = pb.ModelMetadataResponse.TensorMetadata


@dataclass(frozen=True, slots=True)
class KeyName:
    """The key version a request names."""

    key_id: str
    key_version: int


def read_key(request: _Infer) -> KeyName:
    """The parameters `key_id` (string) and `key_version` (int64)."""
    key_id, key_version = (
        request.parameters.get(name) for name in ("key_id", "key_version")
    )
    if key_id is None or not key_id.string_param:
        raise MissingParameterError("expected the string parameter key_id")
    if key_version is None or not key_version.HasField("int64_param"):
        raise MissingParameterError("expected the int64 parameter key_version")
    return KeyName(key_id.string_param, key_version.int64_param)


def read_version(text: str) -> int | None:
    """A model version as the protocol writes it; `None` where it is left open."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < _LONGEST_ID):
        raise NotFound("a model version is a number")
    return int(text)


def read_id(request: _Infer) -> str:
    if len(request.id) > _LONGEST_ID:
        raise TooLargeError(f"a request id has at most {_LONGEST_ID} characters")
    return request.id


def read_question_id(request: _Infer) -> bytes:
    """The parameter `question_id`: 32 bytes in hex, or empty where there is none."""
    found = request.parameters.get(QUESTION_ID)
    text = "" if found is None else found.string_param
    if text and not _QUESTION_ID.fullmatch(text):
        raise QuestionIdError("question_id: expected 64 hex digits")
    return bytes.fromhex(text)


def read_blocks(
    request: _Infer, manifest: Manifest, *, max_images: int, max_bytes: int
) -> Float32[np.ndarray, "n rows columns d"]:
    """The one input tensor as float32, every number of it checked; read-only."""
    tensor = _the_input(request)
    shape = tuple(tensor.shape)
    require_known(tensor.datatype)
    _check_shape(shape, manifest.architecture, max_images)
    step = _step(manifest)
    blocks: Float32[np.ndarray, "n rows columns d"] = decode(
        _raw(request, tensor), shape, tensor.datatype, step, max_bytes=max_bytes
    )
    return blocks


def sent_bytes(request: _Infer) -> bytes:
    """The input's bytes as they were sent: what the log's digest is of."""
    return _raw(request, _the_input(request))


def metadata(
    model: str,
    versions: list[int],
    manifest: Manifest,
    facts: Mapping[str, str] = NO_FACTS,
) -> pb.ModelMetadataResponse:
    """What a model reads and answers, and how; -1 stands for any number of images."""
    sizes = manifest.architecture
    blocks = [-1, sizes.rows, sizes.columns, sizes.dimension]
    logits = [-1, len(manifest.classes)]
    return pb.ModelMetadataResponse(
        name=model,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[_Metadata(name=INPUT, datatype=DATATYPE, shape=blocks)],
        outputs=[_Metadata(name=OUTPUT, datatype=DATATYPE, shape=logits)],
        properties={**_properties(manifest), **facts},
    )


def write_answer(answer: Answer, receipt: Receipt) -> pb.ModelInferResponse:
    """Logits as raw float32, with the record's index and nonce."""
    output = pb.ModelInferResponse.InferOutputTensor(
        name=OUTPUT, datatype=DATATYPE, shape=answer.shape
    )
    return pb.ModelInferResponse(
        model_name=answer.name.model,
        model_version=str(answer.name.model_version),
        id=answer.request_id,
        parameters={
            "audit_index": pb.InferParameter(int64_param=receipt.index),
            "audit_nonce": pb.InferParameter(string_param=receipt.nonce.hex()),
        },
        outputs=[output],
        raw_output_contents=[answer.result],
    )


def _the_input(request: _Infer) -> _Tensor:
    if [tensor.name for tensor in request.inputs] != [INPUT]:
        raise WrongTensorsError(f"expected one input, {INPUT}")
    if any(wanted.name != OUTPUT for wanted in request.outputs):
        raise WrongTensorsError(f"expected {OUTPUT} to be asked for")
    return request.inputs[0]


def _check_shape(
    shape: tuple[int, ...], architecture: Architecture, max_images: int
) -> None:
    rest = (architecture.rows, architecture.columns, architecture.dimension)
    if len(shape) != _INPUT_AXES or shape[1:] != rest or shape[0] < 1:
        raise ShapeError(f"expected [images, {rest}], got {shape[:8]}")
    if shape[0] > max_images:
        raise TooLargeError(f"expected at most {max_images} images, got {shape[0]}")


def _properties(manifest: Manifest) -> dict[str, str]:
    """What a caller must know besides: the protocol gives a tensor one datatype."""
    said = {
        "datatypes": ",".join(WIDTHS),
        "uint8_step": repr(_step(manifest)),
        "key_parameters": KEY_PARAMETERS,
        "preprocessing": canonical(manifest.preprocessing.to_dict()).decode(),
    }
    if manifest.shield is not None:
        said["shield"] = canonical(manifest.shield.to_dict()).decode()
    return said


def _step(manifest: Manifest) -> float:
    sizes = manifest.architecture
    return uint8_step(manifest.preprocessing, sizes.dimension, manifest.shield)


def _raw(request: _Infer, tensor: _Tensor) -> bytes:
    """The input's bytes: sent raw, or as the protocol's list of numbers, never both."""
    if not request.raw_input_contents:
        return _listed(tensor)
    if len(request.raw_input_contents) != 1 or tensor.HasField("contents"):
        raise WrongTensorsError("expected raw bytes or a list of numbers, once")
    return request.raw_input_contents[0]


def _listed(tensor: _Tensor) -> bytes:
    """The list that is the datatype's own; there is none for float16."""
    if tensor.datatype == FP16:
        raise WrongTensorsError("FP16 is sent raw: the protocol has no list for it")
    if tensor.datatype != UINT8:
        return np.array(tensor.contents.fp32_contents, dtype="<f4").tobytes()
    numbers = np.array(tensor.contents.uint_contents, dtype=np.uint32)
    if (numbers > np.iinfo(np.uint8).max).any():
        raise DtypeError("UINT8: expected numbers up to 255")
    return numbers.astype(np.uint8).tobytes()
