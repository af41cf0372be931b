"""Tokens of a batch that mixes owners: each image under its own owner's embedding."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from core.errors import KeyMismatchError, ShapeError
from parties.inference_server.engine import Blocks, Question, Tokens, Weight


def slices(questions: Sequence[Question], images: int) -> Iterator[list[Question]]:
    """Cut a batch into batches of at most so many images, in order; copies nothing."""
    held: list[Question] = []
    room = images
    for question in questions:
        blocks = question.blocks
        while len(blocks) > room:
            if room:
                held.append(Question(blocks[:room], question.weight))
            yield held
            blocks, held, room = blocks[room:], [], images
        held.append(Question(blocks, question.weight))
        room -= len(blocks)
    if held:
        yield held


def tokens(
    questions: Sequence[Question], bias: Float32[np.ndarray, " hidden"]
) -> Tokens:
    """`W' x' + b` for every image; finite blocks may be too large for it: infinity."""
    for question in questions:
        _require_fit(question, bias)
    weight = questions[0].weight
    with np.errstate(over="ignore", invalid="ignore"):
        if all(question.weight is weight for question in questions):
            return _shared(_together(questions), weight, bias)
        return _mixed(questions, bias)


def _shared(
    blocks: Blocks, weight: Weight, bias: Float32[np.ndarray, " hidden"]
) -> Tokens:
    """As one flat product: with more axes NumPy makes a product for each row."""
    flat = blocks.reshape(-1, blocks.shape[-1]) @ weight.T
    flat += bias
    shared: Tokens = flat.reshape(*blocks.shape[:-1], len(bias))
    return shared


def _mixed(
    questions: Sequence[Question], bias: Float32[np.ndarray, " hidden"]
) -> Tokens:
    """All in one call: a call for each question may wait for NumPy's threads."""
    counts = [len(question.blocks) for question in questions]
    weights = np.stack([question.weight for question in questions])
    if max(counts) > 1:
        weights = np.repeat(weights, counts, axis=0)
    blocks = _together(questions)
    n, rows, columns, d = blocks.shape
    mixed = np.matmul(blocks.reshape(n, rows * columns, d), weights.transpose(0, 2, 1))
    mixed += bias
    found: Tokens = mixed.reshape(n, rows, columns, len(bias))
    return found


def _together(questions: Sequence[Question]) -> Blocks:
    if len(questions) == 1:
        return questions[0].blocks
    return np.concatenate([question.blocks for question in questions])


def _require_fit(question: Question, bias: Float32[np.ndarray, " hidden"]) -> None:
    width, expected = question.blocks.shape[-1], question.weight.shape[-1]
    if width != expected:
        raise KeyMismatchError(f"blocks of {width}, a model for {expected}")
    if question.weight.shape[0] != len(bias):
        raise ShapeError(f"expected a bias of {len(question.weight)}, got {len(bias)}")
