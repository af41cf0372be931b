"""Which versions of what made a report."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "keymixer",
    "torch",
    "numpy",
    "grpcio",
    "protobuf",
    "cryptography",
    "sqlalchemy",
)


def versions() -> dict[str, str]:
    """Python, the machine, and the packages that carry the weight."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
