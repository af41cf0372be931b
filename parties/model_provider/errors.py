"""What can go wrong at a model provider.

ReleaseChangedError   SignatureError: a release is not what its manifest says
"""

from core.errors import SignatureError


class ReleaseChangedError(SignatureError):
    """A file of a release does not have the digest that its manifest names."""

    hint = "restore the release folder from its source, or train again"
