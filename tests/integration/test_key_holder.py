"""The key holder as a process among others: real TLS, real files, a real restart."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner

from core.errors import ConfigurationError, KeymixerError, NotFound
from core.keys import possession_tag
from core.orthogonal import GENERATOR
from core.rpc.errors import RemoteError, remote_errors
from core.sealing import RECOVERY, SealContext, SealingKey, fingerprint, open_sealed
from core.statements import DESTRUCTION, DestructionReceipt, verify
from parties.key_holder import __main__ as key_holder
from parties.key_holder import commands
from parties.key_holder.derivations import RUNNING
from protos import key_holder_pb2 as pb
from protos.key_holder_pb2_grpc import KeyHolderServiceStub
from tests.integration.cast import KEY_SERVICE, LONG_S, Cast
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
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
            time.sleep(0.02)
        cast.found(KEY_HOLDER_ID, KEY_SERVICE)
        cast.draw()
        seed = fetch(cast)
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=LONG_S)

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


def rewrap(cast: Cast, url: str) -> tuple[int, dict[str, Any]]:
    """What `keymixer keys rewrap --json` ends with and says."""
    folder = str(cast.home(KEY_HOLDER_ID))
    arguments = ["--folder", folder, "--to", url, "--json"]
    done = CliRunner().invoke(commands.app, arguments)
    return done.exit_code, json.loads(done.output)


def test_the_key_encryption_key_changes_while_keys_are_served(cast: Cast) -> None:
    with cast.key_holder():
        cast.publish()
        cast.draw()
        seed = fetch(cast)
        code, said = rewrap(cast, "file:new.key")
        (cast.home(KEY_HOLDER_ID) / "kek.key").unlink()

        assert seed == fetch(cast)
        cast.draw(2)
        cast.issue()
    assert (code, said["key_versions"], said["embeddings"]) == (0, 1, 1)
    assert said["recorded"]
    with cast.key_holder():
        assert seed == fetch(cast)


def test_a_rewrap_is_recorded_under_one_name_however_often(cast: Cast) -> None:
    with cast.key_holder():
        cast.draw()
        _, said = rewrap(cast, "file:new.key")
        rewrap(cast, "file:new.key")

    recorded = [e for e in cast.audit.events if e.kind == "keys.rewrapped"]
    assert {"kek": said["kek"], "key_versions": "1", "embeddings": "0"}.items() <= dict(
        recorded[0].subject
    ).items()
    assert len(recorded) == 2
    # The log keeps the first of them only.
    assert len({event.event_id for event in recorded}) == 1
    assert recorded[0].event_id


def test_a_rewrap_after_a_repair_is_recorded_by_itself(cast: Cast) -> None:
    """Else the log would say for ever that a record is broken, which is mended."""

    def change(statement: str, *values: bytes) -> list[tuple[bytes]]:
        connection = sqlite3.connect(cast.home(KEY_HOLDER_ID) / "key-holder.db")
        rows = connection.execute(statement, values).fetchall()
        connection.commit()
        connection.close()
        return rows

    with cast.key_holder():
        cast.draw()
        ((wrapped,),) = change("SELECT wrapped FROM key_versions")
        change("UPDATE key_versions SET wrapped = zeroblob(60)")
        rewrap(cast, "file:new.key")
        change("UPDATE key_versions SET wrapped = ?", wrapped)
        rewrap(cast, "file:new.key")

    recorded = [e for e in cast.audit.events if e.kind == "keys.rewrapped"]
    assert [event.subject["broken"] for event in recorded] == ["1", "0"]
    assert len({event.event_id for event in recorded}) == 2


def test_a_rewrap_without_the_log_is_done_and_says_that_it_is_not_recorded(
    cast: Cast,
) -> None:
    with cast.key_holder():
        cast.draw()
        cast.audit.away = True
        code, said = rewrap(cast, "file:new.key")
        assert (code, said["moved"], said["recorded"]) == (4, 1, False)
        assert "did not record" in said["why_not"]

        cast.audit.away = False
        code, said = rewrap(cast, "file:new.key")
        assert (code, said["moved"], said["recorded"]) == (0, 0, True)


@pytest.mark.slow
def test_a_rewrap_is_a_process_too(cast: Cast) -> None:
    with cast.key_holder():
        cast.draw()
        seed = fetch(cast)
        folder = cast.home(KEY_HOLDER_ID)
        command = [sys.executable, "-m", "parties.key_holder", "rewrap"]
        options = ["--folder", str(folder), "--to", "file:new.key"]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, check=True
        )
        (folder / "kek.key").unlink()

        assert "1 key versions and 0 embeddings are under" in done.stdout
        assert seed == fetch(cast)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["rewrap"], ["--to", "env:X"], ["destroy"]])
def test_what_is_no_command_is_wrong_usage(
    tmp_path: Path, arguments: list[str]
) -> None:
    command = [sys.executable, "-m", "parties.key_holder", *arguments]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_exported_to_the_pinned_recovery_key_only(cast: Cast) -> None:
    recovery = SealingKey.generate()
    request = pb.ExportKeyVersionRequest(key_id="k", version=1)
    with cast.key_holder():
        cast.draw()
        with pytest.raises(RemoteError) as caught, cast.keys(ORCHESTRATOR_ID) as keys:
            keys.ExportKeyVersion(request)
        assert caught.value.kind == "NoRecoveryKey"
    with cast.key_holder(recovery_key=recovery.public_bytes().hex()):
        seed = fetch(cast)
        with cast.keys(ORCHESTRATOR_ID) as keys:
            sealed = keys.ExportKeyVersion(request)
        with pytest.raises(RemoteError) as caught, cast.keys(OWNER_ID) as keys:
            keys.ExportKeyVersion(request)
        assert caught.value.kind == "NotAllowed"

    context = SealContext(
        federation="demo",
        key_holder=str(KEY_HOLDER_ID),
        owner=str(OWNER_ID),
        key_id="k",
        version=1,
        generator=GENERATOR,
        recipient_fingerprint=fingerprint(recovery.public_bytes()),
        expires_at_ms=sealed.expires_at_ms,
        purpose=RECOVERY,
    )
    assert seed == open_sealed(sealed.envelope, recovery, context)


def test_a_destruction_outlives_a_restart_with_its_receipt(cast: Cast) -> None:
    request = pb.DestroyKeyVersionRequest(
        key_id="k", version=1, idempotency_key="7/destroy/key-holder"
    )
    answers: list[pb.DestroyKeyVersionResponse] = []
    for _ in range(2):
        with cast.key_holder():
            cast.publish()
            if not answers:
                cast.draw()
            with cast.keys(ORCHESTRATOR_ID) as keys:
                answers.append(keys.DestroyKeyVersion(request))
            with pytest.raises(RemoteError) as caught:
                cast.issue()
            assert caught.value.kind == "KeyDestroyed"

    first, second = answers
    assert first == second
    signing_key = cast.registry.party(str(KEY_HOLDER_ID)).signing_key
    verify(signing_key, DESTRUCTION, first.receipt, first.signature)
    assert DestructionReceipt.from_bytes(first.receipt).key_id == "k"


def test_short_calls_are_answered_while_derivations_fill_their_places(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than the server has workers: the rest is told to come again."""
    go_on, begun = Event(), Semaphore(0)

    def slow(*_: object, **__: object) -> NoReturn:
        begun.release()
        go_on.wait()
        raise NotFound("it took long enough")

    monkeypatch.setattr("parties.key_holder.service.issue", slow)
    request = pb.PrepareIssuedModelRequest(
        key_id="k", key_version=1, model=MODEL, model_version=1
    )

    def prepare() -> str:
        with pytest.raises(KeymixerError) as caught, cast.keys(ORCHESTRATOR_ID) as keys:
            keys.PrepareIssuedModel(request)
        return caught.value.kind

    with cast.key_holder(), ThreadPoolExecutor(20) as pool:
        cast.draw()
        asked = [pool.submit(prepare) for _ in range(20)]
        for _ in range(RUNNING):
            begun.acquire()
        assert fetch(cast)
        go_on.set()
        kinds = Counter(done.result() for done in asked)

    assert set(kinds) == {"NotFound", "DerivationsBusy"}
    assert kinds["NotFound"] >= RUNNING


def fetch_until_refused(
    keys: KeyHolderServiceStub, request: pb.FetchSealedKeyRequest
) -> None:
    """The key holder hears of a revocation within a fraction of a second."""
    with remote_errors("key holder"):
        until = time.monotonic() + LONG_S
        while time.monotonic() < until:
            keys.FetchSealedKey(request)


def test_a_revoked_owner_is_refused_on_the_connection_it_has(cast: Cast) -> None:
    with cast.key_holder():
        cast.draw()
        request = pb.FetchSealedKeyRequest(
            key_id="k", version=1, sealing_key=cast.sealing_key.public_bytes()
        )
        with cast.channel(OWNER_ID, KEY_HOLDER_ID) as channel:
            keys = KeyHolderServiceStub(channel)
            assert keys.FetchSealedKey(request).envelope
            cast.registry.party(str(OWNER_ID)).state = "revoked"
            with pytest.raises(RemoteError) as caught:
                fetch_until_refused(keys, request)

    assert caught.value.kind == "NotAllowed"
