"""What whoever controls a data owner's folder holds: its keys, and what it sends.

For the attacks of `keymixer leakage` alone.
"""

from pathlib import Path

import numpy as np

from core.encoding import decode, encode
from core.leakage.held import Held, KeyName
from core.leakage.moments import Blocks
from core.manifest import Manifest
from core.rpc.identity import load_identity
from parties.data_owner.inference import Pixels, Use
from parties.data_owner.keyring import Keyring
from parties.data_owner.settings import OwnerSettings


def secrets_held(folder: Path, manifest: Manifest) -> Held:
    """Open every key in the owner's keyring that is for the manifest's model."""
    keyring, owner = Keyring(folder), str(load_identity(folder).spiffe)
    names = [
        KeyName(owner, key_id, version)
        for key_id, version in keyring.names()
        if keyring.facts(key_id, version).model == manifest.name
    ]
    return Held(keys={n: keyring.key(n.key_id, n.version).matrix for n in names})


def as_received(
    folder: Path, manifest: Manifest, name: KeyName, pixels: Pixels
) -> Blocks:
    """Return what a server reads when this owner's client asks about these pictures.

    No server writes that down: the pictures are transformed here once more, as the
    client does it, under the same key and in the encoding of the owner's settings. A
    shield's noise is drawn anew.
    """
    settings = OwnerSettings.read(folder)
    key = Keyring(folder).key(name.key_id, name.version)
    use = Use(key, manifest.name, 1, manifest)
    blocks = use.encrypt(pixels)
    sent = encode(blocks, settings.datatype, use.uint8_step)
    received = decode(sent, blocks.shape, settings.datatype, use.uint8_step)
    return received.astype(np.float64)
