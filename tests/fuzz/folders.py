"""What lies in a folder: settings, certificates, keys and models at rest, datasets."""

import shutil
import tempfile
from base64 import encodebytes
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy import URL

from core.canonical import parse
from core.database import _parse as parse_url
from core.database.silence import Silence
from core.datasets.cifar10_archive import read_archive
from core.datasets.npz import load_arrays, load_npz
from core.errors import KeymixerError
from core.rpc import identity
from core.rpc.private_files import ensure_private
from orchestrator.certificates import _requested_key
from parties.data_owner.keyring import KeyFacts, Keyring
from parties.inference_server.store import ModelStore
from parties.key_holder.at_rest import KeyEncryptionKey, SealedRecord, open_record
from parties.key_holder.keks import LIST_FILE, KekList
from tests.fuzz import specimens as s

_FOLDER: Final = Path(tempfile.mkdtemp(prefix="keymixer-fuzz-"))
_KEK: Final = KeyEncryptionKey(bytes(range(32)))


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Have a decoder read bytes from a file of that name."""
    path = _FOLDER / name

    def of_bytes(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return of_bytes


def settings(load: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A party's own, out of its folder."""
    return in_file("settings.json", lambda path: load(path.parent))


def certificate_name(data: bytes) -> object:
    """The name in a certificate, whoever signed it."""
    return identity._named_in(identity._certificate(_pem("CERTIFICATE", data), _FOLDER))


def own_identity(data: bytes) -> object:
    folder = _FOLDER / "identity"
    folder.mkdir(exist_ok=True)
    ensure_private(folder / identity.KEY_FILE, lambda: s.PRIVATE_KEY)
    identity.install_certificate(folder, _pem("CERTIFICATE", data), s.AUTHORITY)
    return identity.load_identity(folder)


def signing_request(data: bytes) -> object:
    return _requested_key(_pem("CERTIFICATE REQUEST", data))


def _pem(name: str, der: bytes) -> bytes:
    frame = f"-----{{}} {name}-----\n"
    begin, end = (frame.format(word).encode() for word in ("BEGIN", "END"))
    return begin + encodebytes(der) + end


def kept_issue(data: bytes) -> None:
    """The JSON beside an issued model on a server's disk."""
    _kept("issued", s.ISSUED, data)


def kept_backbone(data: bytes) -> None:
    _kept("backbones", s.BACKBONE, data)


def _kept(part: str, content: bytes, facts: bytes) -> None:
    folder = _FOLDER / part
    store = ModelStore(folder)
    (folder / part / "one.safetensors").write_bytes(content)
    (folder / part / "one.json").write_bytes(facts)
    load = store.load_issues if part == "issued" else store.load_backbones
    list(load(_raise))


def _raise(_file: str, error: KeymixerError) -> None:
    raise error


def keyring(data: bytes) -> None:
    """A key in its owner's folder, as it was kept there."""
    folder = _FOLDER / "owner"
    shutil.rmtree(folder, ignore_errors=True)
    ring = Keyring(folder)
    facts = KeyFacts(**{name: s.KEPT_KEY[name] for name in KeyFacts.__annotations__})
    ensure_private(folder / "kek.key", lambda: bytes(32))
    path = ring._path(facts.key_id, facts.version)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    ring.key(facts.key_id, facts.version)
    assert parse(data) == s.KEPT_KEY


def at_rest(data: bytes) -> None:
    """The first byte says where the sealed part begins."""
    cut = 1 + (data[0] if data else 0)
    record = SealedRecord(_KEK.id, data[1:cut], data[cut:])
    assert open_record(_KEK, b"identity", record) == b"content"


def kek_list(data: bytes) -> object:
    path = _FOLDER / LIST_FILE
    path.write_bytes(data)
    path.chmod(0o600)
    return KekList.read(_FOLDER)


def database_url(data: bytes) -> tuple[Silence, URL]:
    return Silence.taken_from(parse_url(data.decode(errors="replace")))


def npz(path: Path) -> None:
    load_arrays(path)
    load_npz(path, "train")


def archive(path: Path) -> None:
    list(read_archive(path, lambda *_: None))
