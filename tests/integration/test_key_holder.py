"""The key holder as a process among others: real TLS, real files, a real restart."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from core.keys import possession_tag
from core.orthogonal import GENERATOR
from core.rpc.errors import RemoteError
from core.sealing import SealContext, fingerprint, open_sealed
from parties.key_holder import __main__ as key_holder
from protos import key_holder_pb2 as pb
from tests.integration.cast import KEY_SERVICE, Cast
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    ORCHESTRATOR_ID,
    OTHER_OWNER_ID,
    OWNER_ID,
    SERVER_ID,
)


@pytest.fixture
def cast(tmp_path: Path) -> Iterator[Cast]:
    cast = Cast(tmp_path)
    with cast.orchestrator(), cast.inference_server():
        yield cast


def fetch(cast: Cast) -> bytes:
    """Fetch the owner's key and open it."""
    request = pb.FetchSealedKeyRequest(
        key_id="k", version=1, sealing_key=cast.sealing_key.public_bytes()
    )
    with cast.keys(OWNER_ID) as keys:
        sealed = keys.FetchSealedKey(request)
    context = SealContext(
        federation="demo",
        key_holder=str(KEY_HOLDER_ID),
        owner=str(OWNER_ID),
        key_id="k",
        version=1,
        generator=GENERATOR,
        recipient_fingerprint=fingerprint(cast.sealing_key.public_bytes()),
        expires_at_ms=sealed.expires_at_ms,
    )
    return open_sealed(sealed.envelope, cast.sealing_key, context)


def test_a_key_reaches_its_owner_and_a_model_the_server(cast: Cast) -> None:
    with cast.key_holder():
        cast.publish()
        cast.draw()
        tag = possession_tag(fetch(cast), key_id="k", version=1, owner=str(OWNER_ID))
        with cast.keys(OWNER_ID) as keys:
            keys.ProvePossession(
                pb.ProvePossessionRequest(key_id="k", version=1, tag=tag)
            )
        cast.issue()

    assert cast.registry.confirmed == [("k", 1)]
    assert cast.audit.of_kind("issued.stored")
    assert cast.registry.party(str(KEY_HOLDER_ID)).signing_key


def test_a_restart_loses_no_key(cast: Cast) -> None:
    with cast.key_holder():
        cast.draw()
        before = fetch(cast)
    with cast.key_holder():
        assert before == fetch(cast)


def test_another_owner_is_refused_and_that_is_recorded_once(cast: Cast) -> None:
    """By the service, which knows the key, and not by the guard once more."""
    with cast.key_holder():
        cast.draw()
        request = pb.FetchSealedKeyRequest(key_id="k", version=1)
        with pytest.raises(RemoteError) as caught, cast.keys(OTHER_OWNER_ID) as keys:
            keys.FetchSealedKey(request)

    assert caught.value.kind == "NotAllowed"
    (refused,) = cast.audit.of_kind("refused")
    assert (refused["caller"], refused["key_id"]) == (str(OTHER_OWNER_ID), "k")


def test_a_method_for_another_role_is_refused_and_recorded(cast: Cast) -> None:
    with cast.key_holder():
        request = pb.DestroyKeyVersionRequest(key_id="k", version=1)
        with pytest.raises(RemoteError) as caught, cast.keys(OWNER_ID) as keys:
            keys.DestroyKeyVersion(request)

    assert caught.value.kind == "NotAllowed"
    (refused,) = cast.audit.of_kind("refused")
    assert refused["method"] == f"/{KEY_SERVICE}/DestroyKeyVersion"


def test_no_plain_seed_or_embedding_is_in_the_folder(cast: Cast) -> None:
    with cast.key_holder():
        cast.publish()
        cast.draw()
        seed = fetch(cast)
        cast.issue()
    files = [p for p in cast.home(KEY_HOLDER_ID).rglob("*") if p.is_file()]

    assert files
    for path in files:
        content = path.read_bytes()
        assert seed not in content
        assert seed.hex().encode() not in content
        assert cast.release.weight.tobytes()[:64] not in content


@pytest.mark.slow
def test_the_process_ends_cleanly_and_logs_no_secret(cast: Cast) -> None:
    folder = cast.settle(KEY_HOLDER_ID, ORCHESTRATOR_ID, SERVER_ID)
    command = [sys.executable, "-m", "parties.key_holder", "--folder", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (folder / "address").exists():
            assert process.poll() is None
        cast.found(KEY_HOLDER_ID, KEY_SERVICE)
        cast.draw()
        seed = fetch(cast)
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=20)

    assert process.returncode == 0
    assert seed.hex() not in logged
    assert all(json.loads(line)["logger"] for line in logged.splitlines())


def test_settings_without_a_peer_are_refused(cast: Cast) -> None:
    folder = cast.settle(KEY_HOLDER_ID, ORCHESTRATOR_ID)

    with (
        pytest.raises(ConfigurationError, match="inference_server"),
        key_holder.running(folder),
    ):
        pass
