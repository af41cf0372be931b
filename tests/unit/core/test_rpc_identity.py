"""Who a party is: names, files, lifetimes, and the caller of a call."""

import pickle
import stat
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigurationError, CorruptFileError, WrongFederationError
from core.rpc.identity import (
    ROLES,
    ExpiredCertificateError,
    SpiffeId,
    caller_of,
    claimed_id,
    create_identity,
    dns_name,
    install_certificate,
    load_identity,
)
from orchestrator.certificates import DevelopmentCA

OWNER = SpiffeId("demo.example", "clinic", "data-owner")

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
federations = st.lists(labels, min_size=1, max_size=3).map(".".join)
ids = st.builds(SpiffeId, federations, labels, st.sampled_from(sorted(ROLES)))


@pytest.fixture
def ca(tmp_path: Path) -> DevelopmentCA:
    return DevelopmentCA.create(tmp_path / "ca")


@pytest.fixture
def folder(tmp_path: Path, ca: DevelopmentCA) -> Path:
    return enrol(tmp_path / "clinic", ca)


def enrol(
    folder: Path, ca: DevelopmentCA, spiffe: SpiffeId = OWNER, hours: float = 24
) -> Path:
    csr = create_identity(folder, spiffe)
    install_certificate(folder, ca.sign(csr, spiffe, hours), ca.ca_pem)
    return folder


@given(ids)
def test_an_id_is_what_its_text_says(spiffe: SpiffeId) -> None:
    assert spiffe == SpiffeId.parse(str(spiffe))


@given(ids, ids)
def test_two_parties_never_share_a_dns_name(one: SpiffeId, other: SpiffeId) -> None:
    """A client pins the DNS name alone, so it must say all that the SPIFFE ID says."""
    role, organisation, federation = dns_name(one).split(".", 2)

    assert one == SpiffeId(federation, organisation, role)
    assert (one == other) == (dns_name(one) == dns_name(other))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "demo/clinic/data-owner",
        "https://demo/clinic/data-owner",
        "spiffe://demo/clinic",
        "spiffe://demo/clinic/data-owner/",
        "spiffe://demo/clinic/data-owner\n",
        "spiffe://demo//data-owner",
        "spiffe://demo/st.clinic/data-owner",
        "spiffe://Demo/clinic/data-owner",
        "spiffe://demo/-clinic/data-owner",
        "spiffe://demo:443/clinic/data-owner",
        "spiffe://demo/clinic/data-owner?x",
        "spiffe://demo/" + 64 * "a" + "/data-owner",
        "spiffe://" + ".".join(40 * ["federation"]) + "/clinic/data-owner",
    ],
)
def test_what_is_no_spiffe_id_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        SpiffeId.parse(text)


def test_an_id_cannot_be_built_around_the_rules() -> None:
    with pytest.raises(ConfigurationError):
        SpiffeId("demo", "clinic/key-holder", "data-owner")


def test_an_enrolled_party_is_who_it_says(folder: Path) -> None:
    assert load_identity(folder).spiffe == OWNER
    assert load_identity(folder, expected=OWNER).spiffe == OWNER


def test_asking_again_keeps_the_key(tmp_path: Path) -> None:
    """A crash between request and certificate must not orphan the certificate."""
    requests = [create_identity(tmp_path, OWNER) for _ in range(2)]

    first, second = (x509.load_pem_x509_csr(pem).public_key() for pem in requests)
    assert first == second


def test_the_private_key_is_nobody_else_s_business(folder: Path) -> None:
    key = folder / "identity.key"
    identity = load_identity(folder)

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(identity)
    with pytest.raises(TypeError):
        pickle.dumps(identity)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o777])
def test_a_key_that_others_may_read_is_refused(folder: Path, mode: int) -> None:
    (folder / "identity.key").chmod(mode)

    with pytest.raises(ConfigurationError, match=r"chmod 600 .*identity\.key"):
        load_identity(folder)


@pytest.mark.parametrize("name", ["identity.key", "identity.pem", "ca.pem"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(ConfigurationError, match=name):
        load_identity(folder)


@pytest.mark.parametrize("name", ["identity.key", "identity.pem", "ca.pem"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\x00"])
def test_a_broken_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)

    with pytest.raises(CorruptFileError, match=name):
        load_identity(folder)


def test_an_expired_certificate_is_refused(tmp_path: Path, ca: DevelopmentCA) -> None:
    folder = enrol(tmp_path / "late", ca, hours=-0.01)

    with pytest.raises(ExpiredCertificateError, match="UTC"):
        load_identity(folder)


def test_another_party_s_certificate_is_refused(folder: Path) -> None:
    expected = SpiffeId("demo.example", "other", "data-owner")

    with pytest.raises(WrongFederationError, match="other"):
        load_identity(folder, expected=expected)


def test_another_authority_is_refused(folder: Path, tmp_path: Path) -> None:
    stranger = DevelopmentCA.create(tmp_path / "stranger")
    (folder / "ca.pem").write_bytes(stranger.ca_pem)

    with pytest.raises(WrongFederationError):
        load_identity(folder)


def test_a_bundle_of_authorities_is_accepted(
    folder: Path, tmp_path: Path, ca: DevelopmentCA
) -> None:
    """While the federation changes its authority, both are trusted."""
    coming = DevelopmentCA.create(tmp_path / "coming")
    (folder / "ca.pem").write_bytes(coming.ca_pem + ca.ca_pem)

    assert load_identity(folder).spiffe == OWNER


def test_a_certificate_for_another_key_is_refused(
    folder: Path, tmp_path: Path, ca: DevelopmentCA
) -> None:
    other = enrol(tmp_path / "other", ca)
    (folder / "identity.pem").write_bytes((other / "identity.pem").read_bytes())

    with pytest.raises(CorruptFileError, match="key"):
        load_identity(folder)


def test_a_certificate_is_renewed_after_two_thirds_of_its_life(folder: Path) -> None:
    identity = load_identity(folder)
    left = identity.expires_at - datetime.now(UTC)

    # A day, and the five minutes by which it was backdated.
    life = timedelta(hours=24, minutes=5)
    assert abs(left - timedelta(hours=24)) < timedelta(minutes=1)
    assert timedelta(0) == identity.expires_at - identity.renew_at - life / 3


class Call:
    """A call whose connection has this certificate."""

    def __init__(self, *ids: bytes, pem: bytes = b"") -> None:
        self._ids = ids
        self._pem = pem

    def auth_context(self) -> Mapping[str, object]:
        found = {"peer_spiffe_id": list(self._ids)} if self._ids else {}
        return found | ({"x509_pem_cert": [self._pem]} if self._pem else {})


def test_the_caller_is_read_from_the_certificate(folder: Path) -> None:
    pem = load_identity(folder).certificate

    assert caller_of(Call(str(OWNER).encode(), pem=pem), "demo.example") == OWNER


@pytest.mark.parametrize(
    "names",
    [
        (),
        (b"",),
        (b"nonsense",),
        (b"\xff\xfe",),
        (b"spiffe://evil/clinic/data-owner",),
        (b"spiffe://demo.example.evil/clinic/data-owner",),
        (b"spiffe://demo.example/clinic/data-owner",) * 2,
    ],
)
def test_a_caller_of_no_or_another_federation_is_refused(
    names: tuple[bytes, ...],
) -> None:
    with pytest.raises(WrongFederationError):
        caller_of(Call(*names), "demo.example")


def test_a_caller_whose_certificate_ended_meanwhile_is_refused(
    tmp_path: Path, ca: DevelopmentCA
) -> None:
    """TLS looks once, when the connection is made; a connection may live longer."""
    folder = enrol(tmp_path / "late", ca, hours=-0.01)
    pem = (folder / "identity.pem").read_bytes()

    with pytest.raises(ExpiredCertificateError):
        caller_of(Call(str(OWNER).encode(), pem=pem), "demo.example")


def test_what_a_caller_claims_is_kept_for_the_record() -> None:
    assert claimed_id(Call()) == ""
    assert claimed_id(Call(b"spiffe://evil/x/y")) == "spiffe://evil/x/y"
