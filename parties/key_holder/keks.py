"""The list of key-encryption keys (KEKs): where each one is, and which is in use.

It is a file in the key holder's own folder, and not in the database: a URL may name a
program. Whoever can write the database could otherwise have programs run here, and new
seeds sealed under a key of his own.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from core.rpc.private_files import read_private, replace_private
from parties.key_holder.errors import KekListError

LIST_FILE: Final = "keks.json"


@dataclass(frozen=True, slots=True)
class ListedKek:
    """A KEK that was ever in use; the list holds no secret."""

    # Derived from the key, and says nothing about it; see `KeyEncryptionKey`.
    id: str
    # `file:`, `env:` or `exec:`; see `parties.key_holder.providers`.
    url: str
    # Since when it is, or was last taken, in use: milliseconds since the epoch.
    since_ms: int


@dataclass(frozen=True, slots=True)
class KekList:
    """All KEKs by id; nothing is in use in a new store."""

    in_use: str = ""
    keks: Mapping[str, ListedKek] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The list in the key holder's folder; empty if there is none yet.

        Raises:
            ConfigurationError: others may read it.
            KekListError: it is not what `write` wrote.
        """
        path = folder / LIST_FILE
        if not path.exists():
            return cls()
        try:
            return cls._parsed(json.loads(read_private(path)))
        except (ValueError, TypeError, KeyError) as error:
            raise KekListError(f"{path} is no list of key-encryption keys") from error

    def write(self, folder: Path) -> None:
        """Replace the list, at once or not at all, readable for its owner only."""
        found = {"in_use": self.in_use, "keks": [asdict(k) for k in self.keks.values()]}
        replace_private(folder / LIST_FILE, json.dumps(found, indent=2).encode())

    def used(self) -> ListedKek | None:
        """The KEK that new records are sealed under."""
        return self.keks.get(self.in_use)

    def using(self, kek: ListedKek) -> "KekList":
        """This list with `kek` in use; the others stay as they are."""
        return KekList(kek.id, {**self.keks, kek.id: kek})

    @classmethod
    def _parsed(cls, found: Mapping[str, Any]) -> Self:
        keks = [
            ListedKek(str(each["id"]), str(each["url"]), int(each["since_ms"]))
            for each in found["keks"]
        ]
        parsed = cls(found["in_use"], {kek.id: kek for kek in keks})
        if parsed.used() is None:
            raise ValueError("the key in use is not listed")
        return parsed
