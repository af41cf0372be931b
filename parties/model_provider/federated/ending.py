"""What became of a training, read from its release, wherever it ran."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.manifest import Manifest
from core.wire import read_file
from parties.model_provider.release import MANIFEST_FILE

SPLIT: Final = "split.json"
ROUNDS: Final = "rounds.json"


@dataclass(frozen=True, slots=True)
class Finished:
    """A release of several sites, and how they came to it."""

    release: Path
    manifest: Manifest
    # As `strategy.Round` has them.
    rounds: tuple[Mapping[str, Any], ...]
    # As the split manifest has them.
    sites: tuple[Mapping[str, Any], ...]

    @property
    def accuracy(self) -> float:
        """The share of all sites' test images whose class the model names, 0..1."""
        return self.manifest.metrics["test_accuracy"]

    def told(self) -> dict[str, Any]:
        """What a program is told of it."""
        return {
            "rounds": len(self.rounds),
            "sites": [{**site, **self._last(site["site"])} for site in self.sites],
            "accuracy": self.accuracy,
            "model": {
                "release": str(self.release),
                "embedding_digest": self.manifest.embedding_digest,
                "backbone_digest": self.manifest.backbone_digest,
            },
            "lineage": self.manifest.lineage,
        }

    def _last(self, site: str) -> dict[str, Any]:
        """What a site gave in the last round; nothing if it was not there."""
        found = [each for each in self.rounds[-1]["sites"] if each["site"] == site]
        return {name: found[0][name] for name in ("loss", "accuracy")} if found else {}


def read_finished(release: Path) -> Finished:
    """Read what a training over sites left beside its manifest."""
    split = json.loads(read_file(release / SPLIT))
    return Finished(
        release,
        Manifest.from_bytes(read_file(release / MANIFEST_FILE)),
        tuple(json.loads(read_file(release / ROUNDS))),
        tuple(split["sites"]),
    )
