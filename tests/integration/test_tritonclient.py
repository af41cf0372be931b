"""A client nobody here wrote, tritonclient as it is installed, over mutual TLS."""

import hmac
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.blocks import encrypt
from core.encoding import encode, uint8_step
from core.keys import derive_key
from core.rpc.identity import CA_FILE, CERTIFICATE_FILE, KEY_FILE, SpiffeId, dns_name
from tests.integration.cast import Cast
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    OTHER_OWNER_ID,
    OWNER_ID,
    SERVER_ID,
    images,
)
from tests.unit.parties.strongroom import opened

CALLER = Path(__file__).with_name("triton_caller.py")
TYPES = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}
# How far the logits of three pictures may be from the plain model's.
ERRORS = {"FP32": 1e-5, "FP16": 0.01, "UINT8": 0.2}


@pytest.fixture
def cast(tmp_path: Path) -> Iterator[Cast]:
    """A server with a release and an issued model."""
    cast = Cast(tmp_path)
    with cast.orchestrator(), cast.inference_server():
        with cast.key_holder():
            cast.publish()
            cast.draw()
            cast.issue()
        yield cast


def connection(cast: Cast, who: SpiffeId) -> dict[str, Any]:
    """What a user of the package passes: files, and the name in the certificate."""
    cast.identity(who)
    home = cast.home(who)
    return {
        "url": cast.addresses[SERVER_ID],
        "ssl": True,
        "root_certificates": str(home / CA_FILE),
        "private_key": str(home / KEY_FILE),
        "certificate_chain": str(home / CERTIFICATE_FILE),
        "channel_args": [("grpc.ssl_target_name_override", dns_name(SERVER_ID))],
    }


def encrypted(cast: Cast, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """The same blocks in each datatype."""
    with opened(cast.home(KEY_HOLDER_ID)) as vault, vault.open_seed("k", 1) as lent:
        key = derive_key(bytes(lent), key_id="k", version=1, patch_size=4, channels=3)
    blocks, manifest = encrypt(pictures, key), cast.release.manifest
    step = uint8_step(manifest.preprocessing, manifest.architecture.dimension)
    return {
        datatype: np.frombuffer(encode(blocks, datatype, step), dtype).reshape(
            blocks.shape
        )
        for datatype, dtype in TYPES.items()
    }


def ask(
    cast: Cast, tensors: dict[str, np.ndarray], *, asynchronous: bool, **facts: Any
) -> Any:
    """Have the process ask, and return what it was told."""
    asked = {
        "connection": connection(cast, OWNER_ID),
        "model": MODEL,
        "key": {"key_id": "k", "key_version": 1},
        "asynchronous": asynchronous,
    } | facts
    folder = cast.folder
    (folder / "asked.json").write_text(json.dumps(asked))
    np.savez(folder / "tensors.npz", allow_pickle=False, **tensors)
    done = subprocess.run(
        [sys.executable, str(CALLER), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_it_learns_what_there_is_and_gets_the_plain_models_answers(
    cast: Cast, asynchronous: bool
) -> None:
    """And the log's digests are of the bytes it sent, whatever their datatype."""
    pictures = images(3)
    tensors = encrypted(cast, pictures)
    with torch.inference_mode():
        plain = cast.release.model(torch.from_numpy(pictures)).numpy()

    told = ask(cast, tensors, asynchronous=asynchronous)

    answers = told.pop("answers")
    assert told == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "server": "keymixer",
        "metadata": [["encrypted_blocks", "FP32"], ["logits", "FP32"]],
    }
    records = {record.request_id: record for record in cast.audit.records}
    for datatype, answer in answers.items():
        assert (datatype, "1") == (answer["id"], answer["version"])
        assert np.abs(plain - answer["logits"]).max() < ERRORS[datatype]
        sent, nonce = tensors[datatype].tobytes(), bytes.fromhex(answer["nonce"])
        record = records.pop(datatype)
        assert hmac.digest(nonce, sent, "sha256") == record.request_digest
        assert len(pictures) == record.images
    assert not records


@pytest.mark.parametrize("asynchronous", [False, True])
def test_it_is_refused_what_is_anothers(cast: Cast, asynchronous: bool) -> None:
    theirs = connection(cast, OTHER_OWNER_ID)
    tensors = encrypted(cast, images(1))

    told = ask(cast, tensors, asynchronous=asynchronous, connection=theirs)

    assert "NotAllowed" in told["refused"]
    assert not cast.audit.records


def test_without_a_certificate_there_is_no_answer_at_all(cast: Cast) -> None:
    nobody = connection(cast, OWNER_ID) | dict.fromkeys(
        ("private_key", "certificate_chain")
    )

    told = ask(cast, {}, asynchronous=False, connection=nobody)

    assert ["refused"] == list(told)
