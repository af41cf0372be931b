"""A model that others have trained becomes an ordinary release."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from core.convmixer import EMBEDDING_WEIGHT
from core.errors import ConfigurationError, CorruptFileError
from core.preprocessing import Preprocessing
from core.wire import read_file
from parties.model_provider.checkpoint import Checkpoint
from parties.model_provider.naming import Naming, naming_of, outputs, renamed
from parties.model_provider.published import architecture_named
from parties.model_provider.release import Release
from parties.model_provider.training import own_version
from parties.model_provider.weights import Facts, cut

# Only whoever has trained a model can say that nobody else has its embedding.
PUBLIC: Final = True


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an import is to be: a name, a shape, what pictures undergo, class names.

    Without class names the classes are numbered. `public` is what is presumed of a file
    that came from elsewhere.
    """

    name: str
    arch: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] = ()
    public: bool = PUBLIC


def import_release(checkpoint: Checkpoint, wanted: Wanted) -> Release:
    """Rename, check and cut the weights, and describe them.

    Raises:
        CheckpointError: the file does not hold that architecture.
        ConfigurationError: the names of the classes are not as many as the outputs.
    """
    naming = naming_of(checkpoint.tensors)
    classes = _classes(wanted, outputs(checkpoint.tensors, naming))
    shape = architecture_named(wanted.arch, wanted.preprocessing, len(classes))
    others = renamed(checkpoint.tensors, naming, shape)
    weight = others.pop(EMBEDDING_WEIGHT)
    facts = Facts(
        name=wanted.name,
        architecture=shape,
        preprocessing=wanted.preprocessing,
        classes=classes,
        metrics={},
        lineage=_lineage(checkpoint, naming),
        public_embedding=wanted.public,
    )
    return cut(weight, others, facts)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line, in the order of the outputs."""
    try:
        text = read_file(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is not UTF-8 text") from error
    return tuple(line.strip() for line in text.splitlines())


def _classes(wanted: Wanted, count: int) -> tuple[str, ...]:
    if not wanted.classes:
        return tuple(str(number) for number in range(count))
    if len(wanted.classes) != count:
        raise ConfigurationError(
            f"--classes: {len(wanted.classes)} names for {count} outputs"
        )
    return wanted.classes


def _lineage(checkpoint: Checkpoint, naming: Naming) -> dict[str, Any]:
    """Where the weights come from, as far as the file tells."""
    return {
        "code": f"keymixer {own_version()}, torch {torch.__version__}",
        "imported": {
            "sha256": checkpoint.digest,
            "naming": naming.name,
            "entry": checkpoint.entry,
            "prefix": checkpoint.prefix,
        },
        "parent": None,
    }
