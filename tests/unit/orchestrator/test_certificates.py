"""The development authority: what it signs, and what it will not."""

import pickle
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from core.errors import ConfigurationError, CorruptFileError, SignatureError
from core.rpc.identity import SpiffeId, create_identity
from orchestrator.certificates import DevelopmentCA

OWNER = SpiffeId("demo.example", "clinic", "data-owner")


@pytest.fixture
def ca(tmp_path: Path) -> DevelopmentCA:
    return DevelopmentCA.create(tmp_path / "ca")


@pytest.fixture
def request_pem(tmp_path: Path) -> bytes:
    return create_identity(tmp_path / "clinic", OWNER)


def signed(ca: DevelopmentCA, csr: bytes, hours: float = 24) -> x509.Certificate:
    return x509.load_pem_x509_certificate(ca.sign(csr, OWNER, hours))


def test_a_certificate_has_one_spiffe_id_and_one_dns_name(
    ca: DevelopmentCA, request_pem: bytes
) -> None:
    certificate = signed(ca, request_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)

    assert [
        x509.UniformResourceIdentifier("spiffe://demo.example/clinic/data-owner"),
        x509.DNSName("data-owner.clinic.demo.example"),
    ] == list(names.value)


def test_hosts_are_named_for_those_who_look_for_an_address(
    ca: DevelopmentCA, request_pem: bytes
) -> None:
    signed = ca.sign(request_pem, OWNER, hosts=("127.0.0.1", "link.example"))
    certificate = x509.load_pem_x509_certificate(signed)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)

    assert [
        x509.IPAddress(ip_address("127.0.0.1")),
        x509.DNSName("link.example"),
    ] == list(names.value)[2:]


def test_a_certificate_is_signed_by_the_authority(
    ca: DevelopmentCA, request_pem: bytes
) -> None:
    authority = x509.load_pem_x509_certificate(ca.ca_pem)

    signed(ca, request_pem).verify_directly_issued_by(authority)


def test_a_certificate_serves_clients_and_servers_and_signs_no_other(
    ca: DevelopmentCA, request_pem: bytes
) -> None:
    extensions = signed(ca, request_pem).extensions
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    limits = extensions.get_extension_for_class(x509.BasicConstraints).value

    assert {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH} == set(
        usage
    )
    assert not limits.ca


def test_a_certificate_lives_a_day_and_starts_a_little_before(
    ca: DevelopmentCA, request_pem: bytes
) -> None:
    now = datetime.now(UTC)

    certificate = signed(ca, request_pem)

    assert abs(certificate.not_valid_after_utc - now - timedelta(days=1)) < timedelta(
        minutes=1
    )
    assert (
        timedelta(minutes=1)
        < now - certificate.not_valid_before_utc
        < timedelta(minutes=10)
    )


def test_an_expired_certificate_can_be_made_for_tests(
    ca: DevelopmentCA, request_pem: bytes
) -> None:
    certificate = signed(ca, request_pem, hours=-0.01)

    assert certificate.not_valid_before_utc < certificate.not_valid_after_utc
    assert certificate.not_valid_after_utc < datetime.now(UTC)


def test_the_name_is_the_caller_s_decision_not_the_request_s(
    ca: DevelopmentCA, tmp_path: Path
) -> None:
    greedy = create_identity(tmp_path, SpiffeId("demo.example", "x", "orchestrator"))

    names = (
        signed(ca, greedy)
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )

    assert [str(OWNER)] == names.get_values_for_type(x509.UniformResourceIdentifier)


def test_a_request_signed_by_another_key_is_refused(ca: DevelopmentCA) -> None:
    """Proof of possession: nobody gets a certificate for somebody else's key."""
    ours = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(ours, hashes.SHA256())
    )
    # The last bytes of the DER are the signature's `s`.
    der = bytearray(csr.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)

    with pytest.raises(SignatureError):
        ca.sign(forged, OWNER)


@pytest.mark.parametrize("other", [b"", b"no request", b"-----BEGIN CERTIFICATE-----"])
def test_what_is_no_request_is_refused(ca: DevelopmentCA, other: bytes) -> None:
    with pytest.raises(CorruptFileError):
        ca.sign(other, OWNER)


def test_a_key_that_grpc_cannot_use_is_refused(ca: DevelopmentCA) -> None:
    """Ed25519 certificates fail in the handshake, with a message that helps nobody."""
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(ed25519.Ed25519PrivateKey.generate(), None)
    )

    with pytest.raises(CorruptFileError, match="P-256"):
        ca.sign(csr.public_bytes(serialization.Encoding.PEM), OWNER)


def test_create_again_keeps_the_authority(tmp_path: Path) -> None:
    first = DevelopmentCA.create(tmp_path)

    assert first.ca_pem == DevelopmentCA.create(tmp_path).ca_pem
    assert first.ca_pem == DevelopmentCA.load(tmp_path).ca_pem


def test_create_goes_on_where_a_crash_left_it(tmp_path: Path) -> None:
    DevelopmentCA.create(tmp_path)
    (tmp_path / "ca.pem").unlink()

    with pytest.raises(ConfigurationError):
        DevelopmentCA.load(tmp_path)
    DevelopmentCA.create(tmp_path)
    DevelopmentCA.load(tmp_path)


def test_only_its_owner_reads_the_authority_s_key(tmp_path: Path) -> None:
    DevelopmentCA.create(tmp_path)
    key = tmp_path / "ca.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600

    key.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        DevelopmentCA.load(tmp_path)


def test_another_authority_s_certificate_is_found_out(tmp_path: Path) -> None:
    DevelopmentCA.create(tmp_path / "a")
    DevelopmentCA.create(tmp_path / "b")
    (tmp_path / "a" / "ca.pem").write_bytes((tmp_path / "b" / "ca.pem").read_bytes())

    with pytest.raises(CorruptFileError, match="match"):
        DevelopmentCA.load(tmp_path / "a")


def test_the_authority_does_not_travel(ca: DevelopmentCA) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(ca)
