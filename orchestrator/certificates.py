"""A small certificate authority of the federation's own, for development and trials."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NoReturn, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.errors import ConfigurationError, CorruptFileError, SignatureError
from core.rpc.identity import (
    UNREADABLE,
    SpiffeId,
    dns_name,
    new_private_key,
    parse_private_key,
)
from core.rpc.private_files import ensure_private, read_private, write_public

KEY_FILE: Final = "ca.key"
CERTIFICATE_FILE: Final = "ca.pem"

_CA_LIFETIME: Final = timedelta(days=3650)
# The clocks of the parties may differ a little.
_BACKDATED: Final = timedelta(minutes=5)


class DevelopmentCA:
    """Signs what it is asked to sign: who may ask is decided elsewhere.

    A federation of real organisations would use SPIRE or the like; its certificates
    have the same form.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, ca_pem: bytes) -> None:
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(ca_pem)
        self.ca_pem = ca_pem

    def __reduce__(self) -> NoReturn:
        raise TypeError("a DevelopmentCA is never pickled; use DevelopmentCA.load")

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Make the authority, once; an authority that is there already is loaded."""
        key = parse_private_key(
            ensure_private(folder / KEY_FILE, new_private_key), folder / KEY_FILE
        )
        if not (folder / CERTIFICATE_FILE).exists():
            write_public(folder / CERTIFICATE_FILE, _self_signed(key))
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the authority from its folder.

        Raises:
            ConfigurationError: a file is missing, or others may read the key.
            CorruptFileError: a file cannot be read, or they do not belong together.
        """
        key = parse_private_key(read_private(folder / KEY_FILE), folder / KEY_FILE)
        try:
            authority = cls(key, (folder / CERTIFICATE_FILE).read_bytes())
        except FileNotFoundError as error:
            raise ConfigurationError(f"no {CERTIFICATE_FILE} in {folder}") from error
        except (OSError, *UNREADABLE) as error:
            raise CorruptFileError(f"cannot read the authority in {folder}") from error
        if authority._certificate.public_key() != key.public_key():
            raise CorruptFileError(f"{folder}: key and certificate do not match")
        return authority

    def sign(
        self,
        csr_pem: bytes,
        spiffe: SpiffeId,
        lifetime_hours: float = 24,
        hosts: Sequence[str] = (),
    ) -> bytes:
        """Return a certificate, in PEM, for the key that signed the request.

        Of the request only the public key counts; the name is the caller's decision.
        The certificate starts five minutes ago and ends `lifetime_hours` from now, so
        a small negative lifetime gives an expired one. `hosts` are addresses for those
        who cannot pin a SPIFFE ID and look for the address they called, as Flower does.

        Raises:
            CorruptFileError: the request cannot be read.
            SignatureError: whoever made it does not hold its key.
        """
        public_key = _requested_key(csr_pem)
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + timedelta(hours=lifetime_hours))
        )
        for extension, critical in self._extensions(public_key, spiffe, hosts):
            certificate = certificate.add_extension(extension, critical=critical)
        signed = certificate.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def _extensions(
        self,
        public_key: ec.EllipticCurvePublicKey,
        spiffe: SpiffeId,
        hosts: Sequence[str],
    ) -> list[tuple[x509.ExtensionType, bool]]:
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(str(spiffe)),
            x509.DNSName(dns_name(spiffe)),
            *map(_general_name, hosts),
        ]
        # A party is a client of some parties and a server to others.
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key
        return [
            # Critical, as the subject is empty (RFC 5280, 4.2.1.6).
            (x509.SubjectAlternativeName(names), True),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage(purposes), False),
            (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
            (issuer(self._key.public_key()), False),
        ]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _self_signed(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "keymixer development authority")]
    )
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        valid, public_key = request.is_signature_valid, request.public_key()
    except (*UNREADABLE, InvalidSignature) as error:
        raise CorruptFileError("the signing request cannot be read") from error
    if not valid:
        raise SignatureError("the signing request was not signed by its own key")
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        raise CorruptFileError("the signing request's key is not on the curve P-256")
    return public_key
