"""What can go wrong while several sites train one model.

SitesDisagreeError  DataError: sites whose images cannot train one model
SiteFailedError     Unavailable: a site answered with an error
"""

from core.errors import DataError, Unavailable


class SitesDisagreeError(DataError):
    """The sites' images cannot train one model, or two sites have one name."""

    hint = "give every site images of one size, and a name of its own"


class SiteFailedError(Unavailable):
    """A site answered with an error in place of its part of the round."""

    hint = "read that site's log, then run the same command again: it goes on"
