"""Noise that can be made again, so that a simulation's referee can check an answer.

An owner in earnest takes its noise from the operating system, and nobody ever sees it
again. In a simulation somebody must ask the plain model about the very same draw.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from core.errors import DataError

_SEED_BYTES: Final = 32
_SEEDS: Final = "draw_seeds"
_LENGTHS: Final = "draw_lengths"


@dataclass(frozen=True, slots=True)
class Draw:
    """So many bytes of ChaCha20's keystream (RFC 8439), by its key."""

    seed: bytes
    length: int

    def make(self) -> bytes:
        """The bytes, the same ones every time."""
        cipher = Cipher(ChaCha20(self.seed, nonce=bytes(16)), mode=None)
        return cipher.encryptor().update(bytes(self.length))


def to_arrays(draws: Sequence[Draw]) -> dict[str, np.ndarray]:
    """Draws as two arrays for an `.npz`: uint8 [draws, 32] and int64 [draws]."""
    seeds = np.frombuffer(b"".join(draw.seed for draw in draws), dtype=np.uint8)
    lengths = np.array([draw.length for draw in draws], dtype=np.int64)
    return {_SEEDS: seeds.reshape(-1, _SEED_BYTES), _LENGTHS: lengths}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> list[Draw]:
    """Read what `to_arrays` wrote; no draws if it is not there."""
    if _SEEDS not in arrays or _LENGTHS not in arrays:
        return []
    pairs = zip(arrays[_SEEDS], arrays[_LENGTHS], strict=True)
    return [Draw(seed.tobytes(), int(length)) for seed, length in pairs]


def repeated(path: Path) -> "RepeatedEntropy":
    """The draws that `to_arrays` wrote into an `.npz`, to be made again in order."""
    with np.load(path, allow_pickle=False) as file:
        return RepeatedEntropy(from_arrays(file))


class RecordedEntropy:
    """Draws as the operating system does, each from a seed of its own, and recalls it.

    Not for an owner in earnest: who has the seeds can take the noise off again.
    """

    def __init__(self) -> None:
        self.kept: list[Draw] = []
        self._new: list[Draw] = []

    def __call__(self, length: int) -> bytes:
        self._new.append(Draw(os.urandom(_SEED_BYTES), length))
        return self._new[-1].make()

    def keep(self, length: int) -> None:
        """Keep the last draws, so many bytes; what came before them was of no use.

        A request that was refused is drawn for again.
        """
        used: list[Draw] = []
        while sum(draw.length for draw in used) < length:
            used.insert(0, self._new.pop())
        self._new.clear()
        self.kept += used


class RepeatedEntropy:
    """Gives the bytes of some draws again, one after the other."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        self._left = iter(draws)
        self._bytes = b""

    def __call__(self, length: int) -> bytes:
        while len(self._bytes) < length:
            if (draw := next(self._left, None)) is None:
                raise DataError("fewer draws than there are images")
            self._bytes += draw.make()
        given, self._bytes = self._bytes[:length], self._bytes[length:]
        return given
