"""What can go wrong while several sites train one model.

SitesDisagreeError    DataError: sites whose images cannot train one model
SiteFailedError       Unavailable: a site answered with an error
TrainingChangedError  Conflict: an unfinished training had other options or images
TrainingRunsError     Conflict: another process trains in this folder
"""

from core.errors import Conflict, DataError, Unavailable


class SitesDisagreeError(DataError):
    """The sites' images cannot train one model, or two sites have one name."""

    hint = "give every site images of one size, and a name of its own"


class SiteFailedError(Unavailable):
    """A site answered with an error in place of its part of the round."""

    hint = "read that site's log, then run the same command again: it goes on"


class TrainingChangedError(Conflict):
    """An unfinished training of this name had other options or other images."""

    hint = "repeat the options it was started with, or begin anew with --restart"


class TrainingRunsError(Conflict):
    """Another process trains a model of this name in this folder."""

    hint = "wait until it has ended, or end it"
