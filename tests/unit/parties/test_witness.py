"""A data owner sends nothing while the log is not what it saw of it before."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.checkpoint import open_checkpoint
from core.cosignature import open_cosigned, witness_name
from core.errors import CorruptFileError, KeymixerError, Refused, StorageError
from core.receipt import verify_receipt
from parties.data_owner import witnessed
from parties.data_owner.client import Channels, Client
from parties.data_owner.errors import (
    LogForkedError,
    LogKeyChangedError,
    LogRolledBackError,
    UnexpectedAnswerError,
    UnrecordedError,
    WrongReceiptError,
)
from parties.data_owner.witnessed import Witnessed
from tests.unit.parties.owner_world import OWNER, FakeLog, World, client_of, served

IMAGES = np.random.default_rng(6).integers(0, 256, (5, 8, 8, 3), np.uint8)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def channels(world: World) -> Iterator[Channels]:
    with served(world) as channels:
        yield channels


@pytest.fixture
def client(channels: Channels, world: World, tmp_path: Path) -> Client:
    """A client that can ask, and has seen the log once."""
    client = client_of(channels, tmp_path)
    client.register()
    world.create()
    client.sync_keys()
    world.activate(1)
    client.use()
    return client


def refused(client: Client, world: World, error: type[KeymixerError]) -> None:
    """It is refused with this error, and no image is sent."""
    before = len(world.asked)
    with pytest.raises(error):
        client.predict(IMAGES)
    assert len(world.asked) == before


def kept(folder: Path) -> bytes:
    return (folder / witnessed.FILE).read_bytes()


def fork(world: World) -> None:
    world.log = world.log.forked(1)


def fork_and_grow(world: World) -> None:
    world.log = world.log.forked(1)
    world.log.append("elsewhere")


def rewind(world: World) -> None:
    world.log = world.log.rewound(1)


def rewind_and_grow(world: World) -> None:
    """As after a restored backup, once the log is longer than it was."""
    rewind(world)
    for _ in range(5):
        world.log.append("anew")


def replace(world: World) -> None:
    world.log = FakeLog(bodies=world.log.bodies)


def rename(world: World) -> None:
    world.log = FakeLog(world.log.pen, "test.keymixer/other", world.log.bodies)


def empty(world: World) -> None:
    world.log = world.log.rewound(0)


TURNS = [
    (fork, LogForkedError),
    (fork_and_grow, LogForkedError),
    (rewind, LogRolledBackError),
    (rewind_and_grow, LogForkedError),
    (replace, LogKeyChangedError),
    (rename, LogKeyChangedError),
    (empty, LogRolledBackError),
]


@pytest.mark.parametrize(("turn", "error"), TURNS)
def test_a_log_that_turns_stops_the_owner(
    client: Client, world: World, turn: Callable[[World], None], error: Any
) -> None:
    turn(world)

    refused(client, world, error)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(("turn", "error"), TURNS)
def test_so_it_does_after_a_restart(
    channels: Channels,
    world: World,
    tmp_path: Path,
    turn: Callable[[World], None],
    error: Any,
) -> None:
    turn(world)

    refused(client_of(channels, tmp_path), world, error)


def test_a_log_that_grows_is_believed(
    client: Client, world: World, tmp_path: Path
) -> None:
    for _ in range(9):
        world.log.append("grown")
        client.predict(IMAGES)

    # The last answer is a record that comes after the last look.
    assert f"\\n{len(world.log.bodies) - 1}\\n".encode() in kept(tmp_path)


def test_the_first_log_that_is_seen_stays_the_owners(
    client: Client, world: World, tmp_path: Path
) -> None:
    assert client.log_key == world.log.public_key
    assert world.log.public_key.hex().encode() in kept(tmp_path)
    assert (tmp_path / witnessed.FILE).stat().st_mode & 0o777 == 0o600


def test_a_log_with_another_key_than_the_settings_name_is_never_believed(
    channels: Channels, world: World, tmp_path: Path
) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    client = client_of(channels, tmp_path, log_key=other)
    client.register()
    world.create()
    client.sync_keys()
    world.activate(1)

    refused(client, world, LogKeyChangedError)
    assert not (tmp_path / witnessed.FILE).exists()


def test_both_checkpoints_of_a_fork_are_kept_to_be_shown(
    client: Client, world: World, tmp_path: Path
) -> None:
    seen = world.log.checkpoint()
    fork(world)
    for _ in range(3):
        refused(client, world, LogForkedError)

    notes = {each.read_bytes() for each in (tmp_path / "evidence").iterdir()}
    assert {seen, world.log.checkpoint()} == notes


def test_what_was_kept_outlives_a_fork(
    client: Client, world: World, tmp_path: Path
) -> None:
    """Else showing a fork twice would make it the truth."""
    honest, before = world.log, kept(tmp_path)
    fork_and_grow(world)
    for _ in range(2):
        refused(client, world, LogForkedError)

    assert before == kept(tmp_path)
    world.log = honest
    assert len(client.predict(IMAGES).logits) == len(IMAGES)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff", b'{"checkpoint":"","origin":"","public_key":"zz"}'],
)
def test_a_corrupt_file_is_never_begun_anew(
    client: Client, world: World, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / witnessed.FILE).write_bytes(content)

    refused(client, world, CorruptFileError)
    assert content == kept(tmp_path)


def test_a_kept_checkpoint_that_was_changed_is_refused(
    client: Client, world: World, tmp_path: Path
) -> None:
    """Whoever can write there could else make the witness forget."""
    path = tmp_path / witnessed.FILE
    path.write_bytes(kept(tmp_path).replace(b"\\n2\\n", b"\\n1\\n"))

    refused(client, world, CorruptFileError)


def test_nothing_is_sent_before_what_was_seen_is_on_disk(
    client: Client, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between seeing and keeping leaves what was kept before."""
    before = kept(tmp_path)
    world.log.append("grown")

    def crash(path: Path, data: bytes) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(witnessed, "replace_private", crash)
        refused(client, world, StorageError)

    assert before == kept(tmp_path)
    assert len(client.predict(IMAGES).logits) == len(IMAGES)


def test_of_two_processes_the_slower_one_replaces_nothing(
    world: World, tmp_path: Path
) -> None:
    """Else it could put an older checkpoint back."""
    log, file = world.log, witnessed.WitnessFile(tmp_path)
    slow = Witnessed.verified(log.checkpoint(), log.public_key, log.origin)
    log.append("grown")
    fast = Witnessed.verified(log.checkpoint(), log.public_key, log.origin)

    assert file.replace(None, fast)
    assert not file.replace(None, slow)
    assert fast == file.read()


def test_a_log_without_the_issued_model_stops_the_owner(
    client: Client, world: World
) -> None:
    world.create(2)
    world.activate(2)
    del world.recorded[2]

    refused(client, world, UnrecordedError)


def test_a_registry_that_names_a_record_to_come_is_not_believed(
    client: Client, world: World
) -> None:
    world.create(2)
    world.activate(2)
    world.recorded[2] = 1000

    refused(client, world, UnrecordedError)


@pytest.mark.parametrize(
    "wrong",
    [
        {"owner": "spiffe://test.keymixer/other/data-owner"},
        {"key_id": "other"},
        {"key_version": 1},
        {"model": "tissue"},
        {"model_version": 2},
        {"model_digest": "00" * 32},
        {"digest": "00" * 32},
        {"issued_state": "gone"},
    ],
)
def test_a_record_of_another_issued_model_is_none(
    client: Client, world: World, wrong: dict[str, Any]
) -> None:
    world.create(2)
    world.activate(2)
    facts = world.issued(2, **wrong)
    world.recorded[2] = world.log.append("issued.live", **facts)

    refused(client, world, UnrecordedError)


def test_a_record_of_another_kind_is_none(client: Client, world: World) -> None:
    world.create(2)
    world.activate(2)
    world.recorded[2] = world.log.append("issued.gone", **world.issued(2))

    refused(client, world, UnrecordedError)


def test_a_record_that_is_shown_but_not_in_the_log_is_none(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = list(world.log.bodies)
    world.create(2)
    world.activate(2)
    shown, world.log = world.log, FakeLog(world.log.pen, bodies=honest)
    world.log.append("elsewhere")
    monkeypatch.setattr(FakeLog, "leaves", _leaves_of(world.log))
    world.log.bodies = shown.bodies

    refused(client, world, UnrecordedError)


def _leaves_of(log: FakeLog) -> Callable[..., list[bytes]]:
    real = list(log.leaves())
    return lambda _, size=None: real[:size]


def test_an_issued_model_is_proved_once(client: Client, world: World) -> None:
    for _ in range(3):
        client.predict(IMAGES)

    assert [world.recorded[1]] == world.listed


def test_each_new_checkpoint_is_cosigned(
    channels: Channels, world: World, tmp_path: Path
) -> None:
    own = Ed25519PrivateKey.generate()
    client = client_of(channels, tmp_path, signing=own)
    client.register()
    world.create()
    client.sync_keys()
    world.activate(1)
    for _ in range(2):
        client.use()
    world.log.append("grown")
    client.use()

    public, name = own.public_key().public_bytes_raw(), witness_name(str(OWNER))
    log = world.log
    sizes = [
        open_checkpoint(note, log.public_key, log.origin).size
        for note in world.cosigned
        if open_cosigned(note, public, name)
    ]
    assert sizes == [2, 3]


def test_a_log_that_takes_no_cosignature_does_not_stop_the_owner(
    client: Client, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.takes_cosignatures = False
    world.log.append("grown")

    assert len(client.predict(IMAGES).logits) == len(IMAGES)
    assert "a cosignature was not taken" in caplog.messages


def test_an_answer_is_redeemed_for_a_proof_that_verifies_offline(
    client: Client, world: World
) -> None:
    answers = client.predict(IMAGES, batch=2)

    proofs = client.redeem(answers.receipts)
    assert [each.audit_index for each in answers.receipts] == [
        proof.index for proof in proofs
    ]
    for proof in proofs:
        verify_receipt(proof, proof.extra, world.log.public_key, world.log.origin)


@pytest.mark.parametrize(
    "wrong",
    [
        {"owner": "spiffe://test.keymixer/other/data-owner"},
        {"request_id": "another"},
        {"request_digest": "00" * 32},
        {"result_digest": "00" * 32},
        {"model_digest": "00" * 32},
        {"model_version": 2},
        {"key_version": 2},
        {"images": 4},
    ],
)
def test_a_record_of_another_answer_is_a_wrong_receipt(
    client: Client, world: World, wrong: dict[str, Any]
) -> None:
    world.misrecorded = wrong
    answers = client.predict(IMAGES)

    with pytest.raises(WrongReceiptError):
        client.redeem(answers.receipts)


def test_an_answer_that_was_never_recorded_cannot_be_redeemed(
    client: Client, world: World
) -> None:
    answers = client.predict(IMAGES)
    world.log.bodies.pop()

    with pytest.raises(Refused):
        client.redeem(answers.receipts)


@pytest.mark.parametrize("nonce", ["ab", "zz" * 32, "00" * 33])
def test_an_answer_without_a_nonce_is_refused(
    client: Client, world: World, nonce: str
) -> None:
    world.nonce = nonce

    with pytest.raises(UnexpectedAnswerError):
        client.predict(IMAGES)
