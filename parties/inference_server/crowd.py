"""Embeddings of many owners, made up: `python -m parties.inference_server.crowd`.

They are laid into a server's folder as the server keeps what it was sent, signed with
the key that is given. The orchestrator's `bench owners` has a server start on them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.rpc.private_files import read_private
from core.statements import ISSUE, IssueStatement, sign
from core.transform import embedding_digest
from core.wire import dump_tensors
from parties.inference_server.store import ModelStore

_CHANNELS: Final = 3


def main() -> int:
    """Make an embedding for each owner that is named."""
    parser = argparse.ArgumentParser(prog="python -m parties.inference_server.crowd")
    parser.add_argument("--folder", type=Path, required=True, help="the server's")
    parser.add_argument("--names", type=Path, required=True, help="JSON: key, owner")
    parser.add_argument("--signer", required=True, help="the key holder's SPIFFE ID")
    parser.add_argument("--signing-key", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--patch", type=int, required=True)
    asked = parser.parse_args()
    key = Ed25519PrivateKey.from_private_bytes(read_private(asked.signing_key))
    store, numbers = ModelStore(asked.folder), np.random.default_rng(0)
    for key_id, owner in json.loads(asked.names.read_bytes()):
        shape = (asked.hidden, _CHANNELS * asked.patch**2)
        weight = numbers.standard_normal(shape, np.float32)
        said = statement(key_id, owner, asked.model, asked.patch, weight).to_bytes()
        content = dump_tensors({"weight": weight})
        store.save_issue(said, sign(key, ISSUE, said), content, asked.signer)
    return 0


def statement(
    key_id: str, owner: str, model: str, patch: int, weight: np.ndarray
) -> IssueStatement:
    """What the key holder says of the first version of an owner's key."""
    return IssueStatement(
        key_id=key_id,
        key_version=1,
        owner=owner,
        model=model,
        model_version=1,
        digest=embedding_digest(weight).hex(),
        patch_size=patch,
        channels=_CHANNELS,
        hidden=weight.shape[0],
    )


if __name__ == "__main__":
    sys.exit(main())
