"""What a data owner has seen of the audit log, on disk: `witness.json`.

It holds the log's name and key, as first seen, and the newest checkpoint that was
verified. It is written whole or not at all, and what cannot be read is an error: a
witness that begins anew would find nothing.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.canonical import canonical, parse, take_fields
from core.checkpoint import Checkpoint, open_checkpoint
from core.errors import CorruptFileError, SignatureError, StorageError
from core.rpc.private_files import read_private, replace_private

FILE: Final = "witness.json"
EVIDENCE: Final = "evidence"

_LOCK: Final = "witness.lock"
_FIELDS: Final = {"origin": str, "public_key": str, "checkpoint": str}


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint that verifies with the log's key."""

    public_key: bytes
    # The signed note, byte for byte, and what it says.
    note: bytes
    checkpoint: Checkpoint

    @classmethod
    def verified(cls, note: bytes, public_key: bytes, origin: str) -> "Witnessed":
        """Verify a note; raises as `open_checkpoint` does."""
        return cls(public_key, note, open_checkpoint(note, public_key, origin))

    def to_bytes(self) -> bytes:
        """Write it as canonical JSON."""
        content = {
            "origin": self.checkpoint.origin,
            "public_key": self.public_key.hex(),
            "checkpoint": self.note.decode(),
        }
        return canonical(content)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Witnessed":
        """Read it back, and verify it again.

        Raises:
            CorruptFileError: it was written by something else.
            SignatureError: the log did not sign the checkpoint.
        """
        fields = take_fields(parse(data), _FIELDS)
        try:
            key = bytes.fromhex(fields["public_key"])
            note = fields["checkpoint"].encode()
        except ValueError as error:
            raise CorruptFileError("expected hex digits and text") from error
        return cls.verified(note, key, fields["origin"])


class WitnessFile:
    """What is kept in one owner's folder, whose processes may run side by side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE

    def read(self) -> Witnessed | None:
        """Return what is kept; None before the first contact.

        Raises:
            CorruptFileError: it cannot be read, or does not verify.
        """
        if not self._path.exists():
            return None
        try:
            return Witnessed.from_bytes(read_private(self._path))
        except (CorruptFileError, SignatureError) as error:
            raise CorruptFileError(f"{self._path} is no witness's file") from error

    def replace(self, kept: Witnessed | None, seen: Witnessed) -> bool:
        """Keep `seen` in place of `kept`; it is on disk when this returns.

        Returns:
            Whether it did: another process may have replaced `kept` meanwhile.
        """
        with _locked(self._folder / _LOCK):
            if self.read() != kept:
                return False
            replace_private(self._path, seen.to_bytes())
            return True

    def keep_evidence(self, *notes: bytes) -> None:
        """Keep signed notes that contradict each other, each under its size and root.

        Shown again, they are the files that they were.
        """
        folder = self._folder / EVIDENCE
        for note in notes:
            _, size, root, *_ = note.decode().split("\n")
            name = f"{size}-{root[:8].replace('/', '_')}.note"
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise StorageError(f"cannot make {folder}: {error.strerror}") from error
            replace_private(folder / name, note)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, which the system lets go of when a process dies."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
