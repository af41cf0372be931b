"""What an owner gets back: logits, and what the audit log recorded of each request."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray


@dataclass(frozen=True, slots=True)
class Receipt:
    """One answered request: a ticket for the proof of its record in the log.

    The digests are HMAC-SHA256, in hex, of what was sent and received, under the nonce:
    by them the record is recognised.
    """

    request_id: str
    key_id: str
    key_version: int
    model: str
    model_version: int
    images: int
    request_digest: str
    result_digest: str
    audit_index: int
    audit_nonce: str


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Logits for some images, in their order, and one receipt a request."""

    logits: Float32[ndarray, "n classes"]
    classes: tuple[str, ...]
    receipts: tuple[Receipt, ...]

    @property
    def top(self) -> Int64[ndarray, " n"]:
        """The index of each image's most likely class."""
        top: Int64[ndarray, " n"] = self.logits.argmax(axis=1)
        return top

    @property
    def probabilities(self) -> Float64[ndarray, "n classes"]:
        """Softmax of the logits."""
        shifted = self.logits.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        raised = np.exp(shifted)
        shares: Float64[ndarray, "n classes"] = raised / raised.sum(
            axis=1, keepdims=True
        )
        return shares


def joined(parts: list[Answers]) -> Answers:
    """Put the answers of several requests together, in order."""
    return Answers(
        np.concatenate([part.logits for part in parts]),
        parts[0].classes,
        tuple(receipt for part in parts for receipt in part.receipts),
    )


def parted(answers: Answers) -> list[Answers]:
    """Take the answers of several requests apart again: one receipt each."""
    parts, start = [], 0
    for receipt in answers.receipts:
        logits = answers.logits[start : start + receipt.images]
        parts.append(Answers(logits, answers.classes, (receipt,)))
        start += receipt.images
    return parts
