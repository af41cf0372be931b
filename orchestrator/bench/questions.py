"""The requests that everybody is asked in a measurement, with the right answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from core.errors import ConfigurationError, NotFound
from core.manifest import Manifest
from core.preprocessing import Pixels, normalise
from core.wire import load_tensors
from orchestrator.bench.forms import FORMS, Images

# Two engines may disagree about an image whose two best classes are closer than this.
_MARGIN: Final = 0.01
_BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Question:
    """One request as it goes over the wire, and the class of each of its images."""

    body: bytes
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """Images as the model reads them, and the classes that the plain model gives."""

    pixels: Pixels
    images: Images
    classes: tuple[int, ...]

    def questions(self, form: str, images: int) -> list[Question]:
        """All images as requests of so many each; a last, smaller one is left out."""
        write = FORMS[form].write
        starts = range(0, len(self.images) - images + 1, images)
        return [
            Question(write(self.images[at : at + images]), self.classes[at:][:images])
            for at in starts
        ]


def answer_plainly(release: Path, pixels: Pixels) -> Answered:
    """Ask the plain model, in torch; images that it finds hard to tell are left out.

    Raises:
        NotFound: there is no release in the folder.
        ConfigurationError: it is shielded, and what is compared reads pictures.
    """
    import torch  # noqa: PLC0415 - a data owner's installation has none

    from core.convmixer import put_together  # noqa: PLC0415

    manifest = read_manifest(release)
    if manifest.shield is not None:
        raise ConfigurationError(
            f"{release}: expected a release without a shield, got "
            f"{manifest.shield.spec}; other servers read pictures"
        )
    images = normalise(pixels, manifest.preprocessing)
    weight = load_tensors(release / "embedding.safetensors")["weight"]
    others = load_tensors(release / "backbone.safetensors")
    model = put_together(manifest.architecture, others, weight)
    with torch.inference_mode():
        starts = range(0, len(images), _BATCH)
        parts = [torch.from_numpy(images[at : at + _BATCH]) for at in starts]
        logits = np.concatenate([model(part).numpy() for part in parts])
    best = np.sort(logits, axis=1)
    clear = best[:, -1] - best[:, -2] > _MARGIN
    return Answered(
        pixels[clear], images[clear], tuple(map(int, logits[clear].argmax(1)))
    )


def read_manifest(release: Path) -> Manifest:
    """What a release says of its model.

    Raises:
        NotFound: there is no release in the folder.
    """
    path = release / "manifest.json"
    if not path.is_file():
        raise NotFound(f"{release} holds no release: run `keymixer simulate` once")
    return Manifest.from_bytes(path.read_bytes())


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write what `read_questions` reads: a line of JSON, then the bodies."""
    index = [{"bytes": len(q.body), "classes": q.classes} for q in questions]
    with path.open("wb") as file:
        file.write(json.dumps(index).encode() + b"\n")
        file.writelines(q.body for q in questions)


def read_questions(path: Path) -> list[Question]:
    """Read what `write_questions` wrote."""
    with path.open("rb") as file:
        index = json.loads(file.readline())
        return [Question(file.read(q["bytes"]), tuple(q["classes"])) for q in index]
