"""One request to the inference server: written, and its answer read with suspicion."""

import hmac
import os
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from jaxtyping import Float32, UInt8
from numpy import ndarray

from core.encoding import FP32, WIDTHS, encode, uint8_step
from core.errors import BudgetSpent, KeyMismatchError, TooLargeError
from core.keys import BlockKey
from core.manifest import Manifest
from core.normals import Entropy
from core.pixels import PixelKey
from core.rpc.errors import RemoteError
from core.wire import from_bytes
from parties.data_owner.answers import Answers, Receipt
from parties.data_owner.errors import UnexpectedAnswerError
from protos import open_inference_pb2 as pb

Pixels = UInt8[ndarray, "n height width channels"]
Blocks = Float32[ndarray, "n rows columns d"]

INPUT: Final = "encrypted_blocks"
OUTPUT: Final = "logits"
# Room in a message for names, ids and shapes beside the tensor.
_ENVELOPE_BYTES: Final = 64 << 10
_NONCE_BYTES: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """What a request is made with: a key version, and the model issued for it.

    Raises `KeyMismatchError` when the two do not belong together.
    """

    key: BlockKey
    model: str
    model_version: int
    manifest: Manifest
    _folded: PixelKey = field(init=False, repr=False)

    def __post_init__(self) -> None:
        key, sizes = self.key, self.manifest.architecture
        if (key.patch_size, key.channels) != (sizes.patch_size, sizes.channels):
            raise KeyMismatchError(
                f"the key is for blocks of {key.patch_size} x {key.channels} channels"
                f", the model for {sizes.patch_size} x {sizes.channels}"
            )
        folded = PixelKey.of(key, self.manifest.preprocessing, self.manifest.shield)
        object.__setattr__(self, "_folded", folded)

    @property
    def uint8_step(self) -> float:
        """What one byte value stands for, if blocks travel as bytes."""
        it = self.manifest
        return uint8_step(it.preprocessing, it.architecture.dimension, it.shield)

    def encrypt(self, images: Pixels, entropy: Entropy = os.urandom) -> Blocks:
        """Normalise and shield as the manifest says, and apply `A` to every block.

        A shield's noise is drawn in each call: call it for every request.
        """
        blocks: Blocks = self._folded.encrypt(images, entropy)
        return blocks

    def fitting(self, max_message_bytes: int, datatype: str = FP32) -> int:
        """Return how many encrypted images fit into one message."""
        sizes = self.manifest.architecture
        one = WIDTHS[datatype] * sizes.rows * sizes.columns * sizes.dimension
        count = (max_message_bytes - _ENVELOPE_BYTES) // one
        if count < 1:
            raise TooLargeError("one encrypted image is larger than a message may be")
        return count


@contextmanager
def budget_errors() -> Iterator[None]:
    """Raise `BudgetSpent` when that is what the inference server answers.

    Nothing was counted: a request is released whole or not at all.
    """
    try:
        yield
    except RemoteError as error:
        if error.kind != BudgetSpent.__name__:
            raise
        raise BudgetSpent(str(error)) from error


def request_for(blocks: Blocks, use: Use, datatype: str = FP32) -> pb.ModelInferRequest:
    """Write a request: the key travels by name only.

    By its `question_id` the log knows a question that is asked again, and counts it
    once. Whoever has it can compute the nonce of the digests: it stays a secret.
    """
    tensor = pb.ModelInferRequest.InferInputTensor(
        name=INPUT, datatype=datatype, shape=blocks.shape
    )
    return pb.ModelInferRequest(
        model_name=use.model,
        model_version=str(use.model_version),
        id=str(uuid.uuid4()),
        parameters={
            "key_id": pb.InferParameter(string_param=use.key.key_id),
            "key_version": pb.InferParameter(int64_param=use.key.version),
            "question_id": pb.InferParameter(string_param=secrets.token_hex(32)),
        },
        inputs=[tensor],
        raw_input_contents=[encode(blocks, datatype, use.uint8_step)],
    )


def read_answer(
    request: pb.ModelInferRequest,
    answer: pb.ModelInferResponse,
    use: Use,
    max_bytes: int,
) -> Answers:
    """Read an answer, and refuse one that is not to this request."""
    images = request.inputs[0].shape[0]
    expected = (images, len(use.manifest.classes))
    said = (answer.id, answer.model_name, answer.model_version)
    if said != (request.id, request.model_name, request.model_version):
        raise UnexpectedAnswerError("the answer is to another request")
    if (
        [output.name for output in answer.outputs] != [OUTPUT]
        or len(answer.raw_output_contents) != 1
        or tuple(answer.outputs[0].shape) != expected
    ):
        raise UnexpectedAnswerError(f"expected logits of {expected}")
    logits = from_bytes(
        answer.raw_output_contents[0],
        expected,
        answer.outputs[0].datatype,
        max_bytes=max_bytes,
    )
    nonce = _nonce(answer.parameters["audit_nonce"].string_param)
    receipt = Receipt(
        request_id=request.id,
        key_id=use.key.key_id,
        key_version=use.key.version,
        model=use.model,
        model_version=use.model_version,
        images=images,
        request_digest=keyed_digest(nonce, request.raw_input_contents[0]),
        result_digest=keyed_digest(nonce, answer.raw_output_contents[0]),
        audit_index=answer.parameters["audit_index"].int64_param,
        audit_nonce=nonce.hex(),
    )
    return Answers(logits, use.manifest.classes, (receipt,))


def keyed_digest(nonce: bytes, content: bytes) -> str:
    """What the log keeps of a request or a result: HMAC-SHA256, in hex."""
    return hmac.digest(nonce, content, "sha256").hex()


def _nonce(text: str) -> bytes:
    try:
        nonce = bytes.fromhex(text)
    except ValueError as error:
        raise UnexpectedAnswerError("the nonce is not in hex") from error
    if len(nonce) != _NONCE_BYTES:
        raise UnexpectedAnswerError(f"expected a nonce of {_NONCE_BYTES} bytes")
    return nonce
