"""Who a party is: a SPIFFE ID in an mTLS certificate, and the caller of a call."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final, NoReturn, Protocol, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from core.errors import (
    ConfigurationError,
    CorruptFileError,
    Refused,
    WrongFederationError,
)
from core.rpc.private_files import ensure_private, read_private, write_public

ORCHESTRATOR: Final = "orchestrator"
KEY_HOLDER: Final = "key-holder"
INFERENCE_SERVER: Final = "inference-server"
MODEL_PROVIDER: Final = "model-provider"
DATA_OWNER: Final = "data-owner"
OPERATOR: Final = "operator"
ROLES: Final = frozenset(
    {ORCHESTRATOR, KEY_HOLDER, INFERENCE_SERVER, MODEL_PROVIDER, DATA_OWNER, OPERATOR}
)

KEY_FILE: Final = "identity.key"
CERTIFICATE_FILE: Final = "identity.pem"
CA_FILE: Final = "ca.pem"

# What is raised of a certificate, or of a request for one, that is malformed.
UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

# Organisation and role are one DNS label each, so `dns_name` can be read one way only.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SPIFFE_ID = re.compile(
    rf"spiffe://(?P<federation>{_LABEL}(?:\.{_LABEL})*)"
    rf"/(?P<organisation>{_LABEL})/(?P<role>{_LABEL})"
)
_LONGEST_DNS_NAME = 253


class ExpiredCertificateError(Refused):
    """A certificate is past its end, or before its start."""

    hint = "enrol again for a fresh certificate, and check the clock"


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """`spiffe://<federation>/<organisation>/<role>`, in lower-case DNS labels."""

    federation: str
    organisation: str
    role: str

    def __post_init__(self) -> None:
        if not _SPIFFE_ID.fullmatch(str(self)) or (
            len(dns_name(self)) > _LONGEST_DNS_NAME
        ):
            raise ConfigurationError(
                f"{str(self)!r} is not spiffe://<federation>/<organisation>/<role> "
                "in lower-case letters, digits and hyphens"
            )

    def __str__(self) -> str:
        return f"spiffe://{self.federation}/{self.organisation}/{self.role}"

    @classmethod
    def parse(cls, text: str) -> Self:
        found = _SPIFFE_ID.fullmatch(text)
        if found is None:
            raise ConfigurationError(
                f"{text!r} is not spiffe://<federation>/<organisation>/<role> "
                "in lower-case letters, digits and hyphens"
            )
        return cls(**found.groupdict())


def dns_name(spiffe: SpiffeId) -> str:
    """The certificate's one DNS name: clients pin it, so a server proves who it is."""
    return f"{spiffe.role}.{spiffe.organisation}.{spiffe.federation}"


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A private key and its certificate, in PEM.

    A channel or a server keeps the certificate it was opened with (gRPC does not
    reload): open a new one with a fresh identity from `renew_at` on.
    """

    spiffe: SpiffeId
    certificate: bytes
    private_key: bytes = field(repr=False)
    ca: bytes

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Identity is never pickled; use load_identity")

    def check_validity(self) -> None:
        """Raise `ExpiredCertificateError` unless the certificate is valid now."""
        check_validity(*_validity(self.certificate))

    @property
    def expires_at(self) -> datetime:
        return _validity(self.certificate)[1]

    @property
    def renew_at(self) -> datetime:
        """Two thirds into the certificate's life."""
        start, end = _validity(self.certificate)
        return start + (end - start) * 2 / 3


def create_identity(folder: Path, spiffe: SpiffeId) -> bytes:
    """Make the party's private key, once, and return a signing request (CSR) in PEM.

    The private key never leaves the folder. A P-256 key, because gRPC's handshake
    fails with Ed25519 certificates.
    """
    pem = ensure_private(folder / KEY_FILE, new_private_key)
    names = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(str(spiffe)), x509.DNSName(dns_name(spiffe))]
    )
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .sign(parse_private_key(pem, folder / KEY_FILE), hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM)


def install_certificate(folder: Path, certificate_pem: bytes, ca_pem: bytes) -> None:
    """Put the certificate and its authority's beside the private key."""
    write_public(folder / CA_FILE, ca_pem)
    write_public(folder / CERTIFICATE_FILE, certificate_pem)


def load_identity(folder: Path, *, expected: SpiffeId | None = None) -> Identity:
    """Read and check a party's identity.

    Raises:
        ConfigurationError: a file is missing, or others may read the private key.
        CorruptFileError: a file cannot be read, or the key is not the certificate's.
        ExpiredCertificateError: the certificate is not valid now.
        WrongFederationError: another authority signed it, or it names somebody else
            than `expected`.
    """
    private_key = read_private(folder / KEY_FILE)
    certificate, ca = _read(folder / CERTIFICATE_FILE), _read(folder / CA_FILE)
    parsed = _certificate(certificate, folder / CERTIFICATE_FILE)
    if parse_private_key(private_key, folder / KEY_FILE).public_key() != _key_in(
        parsed, folder / CERTIFICATE_FILE
    ):
        raise CorruptFileError(f"{folder / KEY_FILE} is not the certificate's key")
    _check_issuer(parsed, _authorities(ca, folder / CA_FILE))
    check_validity(parsed.not_valid_before_utc, parsed.not_valid_after_utc)
    spiffe = _named_in(parsed)
    if expected is not None and spiffe != expected:
        raise WrongFederationError(
            f"expected {expected}, the certificate says {spiffe}"
        )
    return Identity(spiffe, certificate, private_key, ca)


def check_validity(not_before: datetime, not_after: datetime) -> None:
    """Raise `ExpiredCertificateError` unless now lies between the two."""
    now = datetime.now(UTC)
    # Whoever signed may have a clock a little ahead of ours.
    if not not_before - timedelta(minutes=5) <= now <= not_after:
        raise ExpiredCertificateError(
            f"the certificate is valid from {not_before:%F %T} to {not_after:%F %T} "
            f"UTC, and it is {now:%F %T}"
        )


class CallContext(Protocol):
    """What of `grpc.ServicerContext` tells the caller."""

    def auth_context(self) -> Mapping[str, object]: ...


def claimed_id(context: CallContext) -> str:
    """The SPIFFE ID in the caller's certificate, unparsed; empty if there is none."""
    ids = context.auth_context().get("peer_spiffe_id", ())
    if not isinstance(ids, (list, tuple)) or len(ids) != 1:
        return ""
    return bytes(ids[0]).decode("utf-8", "replace")


def caller_of(context: CallContext, federation: str) -> SpiffeId:
    """Return who calls, proved by the certificate of the call's connection.

    TLS checked the certificate when the connection was made; the end of its life is
    checked again here, as a connection may outlive it.
    """
    claimed = claimed_id(context)
    try:
        caller = SpiffeId.parse(claimed)
    except ConfigurationError as error:
        raise WrongFederationError(f"no such SPIFFE ID: {claimed!r}") from error
    if caller.federation != federation:
        raise WrongFederationError(f"expected {federation}, the caller is {caller}")
    for pem in _certificates_of(context):
        check_validity(*_validity(pem))
    return caller


def _certificates_of(context: CallContext) -> list[bytes]:
    found = context.auth_context().get("x509_pem_cert", ())
    return [bytes(pem) for pem in found] if isinstance(found, (list, tuple)) else []


@lru_cache(maxsize=4096)
def _validity(pem: bytes) -> tuple[datetime, datetime]:
    certificate = _certificate(pem, Path(CERTIFICATE_FILE))
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def new_private_key() -> bytes:
    """Draw a P-256 key; PKCS #8 in PEM, not encrypted: it belongs in a 0600 file."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def parse_private_key(pem: bytes, path: Path) -> ec.EllipticCurvePrivateKey:
    """Read what `new_private_key` wrote; `path` is for the message of the error."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CorruptFileError(f"{path} is not a private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CorruptFileError(f"{path} is not an elliptic-curve key")
    return key


def _certificate(pem: bytes, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except UNREADABLE as error:
        raise CorruptFileError(f"{path} is not a certificate") from error


def _key_in(certificate: x509.Certificate, path: Path) -> object:
    try:
        return certificate.public_key()
    except UNREADABLE as error:
        raise CorruptFileError(f"{path} holds no public key") from error


def _authorities(pem: bytes, path: Path) -> list[x509.Certificate]:
    """More than one while the federation changes its authority."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except UNREADABLE as error:
        raise CorruptFileError(f"{path} is not a certificate") from error


def _check_issuer(
    certificate: x509.Certificate, authorities: list[x509.Certificate]
) -> None:
    for authority in authorities:
        with suppress(*UNREADABLE, InvalidSignature):
            certificate.verify_directly_issued_by(authority)
            return
    raise WrongFederationError("another authority signed the certificate")


def _named_in(certificate: x509.Certificate) -> SpiffeId:
    try:
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        (dns,) = names.get_values_for_type(x509.DNSName)
        spiffe = SpiffeId.parse(uri)
    except (*UNREADABLE, x509.ExtensionNotFound, ConfigurationError) as error:
        raise WrongFederationError("the certificate names no SPIFFE ID") from error
    if dns != dns_name(spiffe):
        raise WrongFederationError(f"expected {dns_name(spiffe)}, the name is {dns}")
    return spiffe


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} is missing: enrol the party first") from error
    except OSError as error:
        raise CorruptFileError(f"cannot read {path}: {error.strerror}") from error
