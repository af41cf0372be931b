"""A sealed key as a file: everything that whoever opens it must know, and no secret."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from core.errors import ConfigurationError, NotFound
from core.rpc.identity import KEY_HOLDER
from core.wire import write_atomically
from orchestrator.cli.session import KeyName
from orchestrator.federation import Federation
from protos.registry_pb2 import KeyVersion
from protos.workflows_pb2 import ExportKeyResponse


def chosen_version(
    versions: Sequence[KeyVersion], key: KeyName, number: int
) -> KeyVersion:
    """The version that is meant; 0 means the primary.

    Raises:
        NotFound: there is none.
    """
    for version in versions:
        wanted = version.primary if number == 0 else version.version == number
        if version.key_id == key.key_id and wanted:
            return version
    named = f"version {number}" if number else "primary version"
    raise NotFound(f"{key.key_id} has no {named}: see `keymixer keys list --all`")


def require_new(path: Path) -> None:
    """Raise if there is such a file; asking first spares an approval.

    Raises:
        ConfigurationError: there is one.
    """
    if path.exists():
        raise ConfigurationError(f"{path} is there already: name another file")


def write_export(
    path: Path, federation: Federation, version: KeyVersion, sealed: ExportKeyResponse
) -> None:
    """Write an envelope and all that whoever opens it must expect."""
    content = {
        "federation": federation.federation,
        "key_holder": str(federation.only(KEY_HOLDER)),
        "owner": version.owner,
        "model": version.model,
        "key_id": version.key_id,
        "version": version.version,
        "generator": version.generator,
        "patch_size": version.patch_size,
        "channels": version.channels,
        "commitment": version.commitment.hex(),
        "expires_at_ms": sealed.expires_at_ms,
        "envelope": base64.b64encode(sealed.envelope).decode(),
        "signature": base64.b64encode(sealed.signature).decode(),
    }
    write_atomically(path, json.dumps(content, indent=2).encode())
