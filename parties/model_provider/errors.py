"""What can go wrong at a model provider.

ReleaseChangedError      SignatureError: a release is not what its manifest says
CheckpointError          CorruptFileError: a file holds no ConvMixer we can import
MoreThanWeightsError     Refused: a pickle wants to run what weights do not need
TrainingChangedError     Conflict: an unfinished training had other options or images
TrainingRunsError        Conflict: another process trains in this folder
"""

from core.errors import Conflict, CorruptFileError, Refused, SignatureError


class ReleaseChangedError(SignatureError):
    """A file of a release does not have the digest that its manifest names."""

    hint = "restore the release folder from its source, or train again"


class CheckpointError(CorruptFileError):
    """A checkpoint cannot be read, or does not hold the model that was named."""

    hint = "docs/import.md says which files can be imported, and how --arch is written"


class MoreThanWeightsError(Refused):
    """A pickle needs more than weights: to load it could run anything."""

    hint = (
        "nothing of it was run; have whoever made it save the state_dict alone, best "
        "as safetensors"
    )


class TrainingChangedError(Conflict):
    """An unfinished training of this name had other options or other images."""

    hint = "repeat the options it was started with, or begin anew with --restart"


class TrainingRunsError(Conflict):
    """Another process trains a model of this name in this folder."""

    hint = "wait until it has ended, or end it"
