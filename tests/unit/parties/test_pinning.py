"""An owner believes the registry once about the key holder's delivery key."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import ConfigurationError, CorruptFileError
from parties.data_owner.client import Client
from parties.data_owner.errors import DeliveryKeyChangedError
from parties.data_owner.pinning import FILE, require_pinned
from tests.unit.parties.owner_world import World, client_of, served

KEY, OTHER = bytes(range(32)), bytes(32)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World, tmp_path: Path) -> Iterator[Client]:
    with served(world) as channels:
        client = client_of(channels, tmp_path)
        client.register()
        yield client


def test_the_first_key_is_pinned_and_stays(tmp_path: Path) -> None:
    require_pinned(tmp_path, KEY)

    require_pinned(tmp_path, KEY)
    with pytest.raises(DeliveryKeyChangedError):
        require_pinned(tmp_path, OTHER)


@pytest.mark.parametrize("content", [b"", b"ab", b"no key at all", b"\xff" * 64])
def test_a_file_that_holds_no_key_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    (tmp_path / FILE).chmod(0o600)

    with pytest.raises(CorruptFileError):
        require_pinned(tmp_path, KEY)


def test_a_pin_that_others_could_replace_is_not_believed(tmp_path: Path) -> None:
    require_pinned(tmp_path, KEY)
    (tmp_path / FILE).chmod(0o644)

    with pytest.raises(ConfigurationError):
        require_pinned(tmp_path, KEY)


def test_a_registry_that_swaps_the_delivery_key_delivers_nothing(
    client: Client, world: World
) -> None:
    """The registry and the envelope agree with each other, but not with the pin."""
    world.create()
    client.sync_keys()
    world.create(2)
    world.holder_key = Ed25519PrivateKey.generate()
    world.fetched.clear()

    with pytest.raises(DeliveryKeyChangedError):
        client.sync_keys()
    assert ("st-anna.cells", 2) not in client.keyring
    assert not world.fetched
