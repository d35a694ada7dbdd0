"""The cluster's own certificates: a CA, and one certificate per manager, named by its Raft address.

May live here: making, reading and checking X.509 files. Links are made in pysyncobj/tls.py. The CA's key is
needed to issue certificates only: keep it off the managers' hosts.
"""

import datetime
import os
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

URI_PREFIX: Final = "vimraft://"
CA_DAYS: Final = 3_650
CERT_DAYS: Final = 825
MAX_DAYS: Final = 3_650
BACKDATE: Final = datetime.timedelta(hours=1)
"""Clocks of two sites differ; a certificate made this minute must be good at both."""
MAX_FILE_BYTES: Final = 1 << 20

CA_CERT, CA_KEY = "ca.crt", "ca.key"


class CertificateProblem(Exception):
    """Names the file, what is wrong with it, and the remedy."""


class Described(Struct, frozen=True):
    """What a certificate file says."""

    subject: str
    issuer: str
    is_ca: bool
    raft_addresses: tuple[str, ...]
    valid_from: str
    valid_until: str
    expired: bool
    serial: str
    sha256: str


def make_ca(directory: Path, cluster: str, days: int = CA_DAYS) -> Path:
    """A key and a self-signed certificate in `directory`; the certificate's path. Never over files that
    are there. Raises CertificateProblem, OSError."""
    for path in (directory / CA_CERT, directory / CA_KEY):
        if path.exists():
            raise CertificateProblem(f"{path} exists: choose another directory, or move it away")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"vimraft CA {cluster}"[:64])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(directory / CA_KEY, _key_pem(key), 0o600)
    _write(directory / CA_CERT, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return directory / CA_CERT


def issue(
    name: str, raft_address: str, ca_directory: Path, out: Path, days: int = CERT_DAYS
) -> tuple[Path, Path]:
    """A key and a certificate for one manager: (certificate, key). An older pair of the same name is
    replaced, the certificate last. Raises CertificateProblem, OSError."""
    ca = _read_certificate(ca_directory / CA_CERT)
    ca_key = _read_key(ca_directory / CA_KEY)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or not _same_key(ca, ca_key):
        raise CertificateProblem(f"{ca_directory / CA_KEY} is not the key of {ca_directory / CA_CERT}")
    if _expired(ca):
        raise CertificateProblem(
            f"{ca_directory / CA_CERT} expired on {_until(ca)}: make a new CA with vimraft tls init, and new "
            "certificates for all managers"
        )
    out.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    uri = x509.UniformResourceIdentifier(URI_PREFIX + raft_address)
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = (
        _builder(_name(name), ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(authority, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    cert_path, key_path = out / f"{name}.crt", out / f"{name}.key"
    _write(key_path, _key_pem(key), 0o600)
    _write(cert_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return cert_path, key_path


def describe(path: Path) -> Described:
    """Raises CertificateProblem."""
    certificate = _read_certificate(path)
    return Described(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        is_ca=_is_ca(certificate),
        raft_addresses=raft_addresses(certificate),
        valid_from=_from(certificate).isoformat(),
        valid_until=_until(certificate).isoformat(),
        expired=_expired(certificate),
        serial=f"{certificate.serial_number:x}",
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def check_files(ca_path: Path, cert_path: Path, key_path: Path, raft_address: str) -> None:
    """That a manager at `raft_address` can use these. Raises CertificateProblem."""
    ca, certificate, key = _read_certificate(ca_path), _read_certificate(cert_path), _read_key(key_path)
    again = f"make a new one with: vimraft tls issue NAME --raft {raft_address}"
    if not _same_key(certificate, key):
        raise CertificateProblem(f"{key_path} is not the key of {cert_path}: {again}")
    if not _signed_by(certificate, ca):
        raise CertificateProblem(f"{cert_path} is not from the CA {ca_path}: {again}, with that CA")
    for path, one in ((cert_path, certificate), (ca_path, ca)):
        if _expired(one):
            raise CertificateProblem(f"{path} expired on {_until(one)}: {again}")
        if _from(one) > _now():
            raise CertificateProblem(f"{path} is valid only from {_from(one)}: check this host's clock")
    named = raft_addresses(certificate)
    if raft_address not in named:
        raise CertificateProblem(
            f"{cert_path} is for {', '.join(named) or 'no Raft address'}, not for {raft_address}: {again}"
        )


def raft_addresses(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return tuple(uri[len(URI_PREFIX) :] for uri in uris if uri.startswith(URI_PREFIX))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = _now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by others in between."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CertificateProblem(
            f"{path}: {error.strerror}. vimraft tls init and vimraft tls issue make these files"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise CertificateProblem(f"{path} is larger than {MAX_FILE_BYTES} bytes: not a PEM file")
    return data


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateProblem(f"{path} is not a PEM certificate: {error}") from None


def _read_key(path: Path) -> object:
    try:
        return serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateProblem(f"{path} is not a PEM private key without a passphrase: {error}") from None


def _same_key(certificate: x509.Certificate, key: object) -> bool:
    public = getattr(key, "public_key", None)
    return public is not None and _public_bytes(public()) == _public_bytes(certificate.public_key())


def _public_bytes(key: object) -> bytes:
    encode = getattr(key, "public_bytes")  # noqa: B009 - every kind of key has it, without a common type
    encoded: bytes = encode(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """By this very CA: chains are not used."""
    if certificate.issuer != ca.subject:
        return False
    key, digest = ca.public_key(), certificate.signature_hash_algorithm
    signed, signature = certificate.tbs_certificate_bytes, certificate.signature
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
            key.verify(signature, signed, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey) and digest is not None:
            key.verify(signature, signed, padding.PKCS1v15(), digest)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _expired(certificate: x509.Certificate) -> bool:
    return _until(certificate) < _now()


def _until(certificate: x509.Certificate) -> datetime.datetime:
    return _aware(certificate, "not_valid_after")


def _from(certificate: x509.Certificate) -> datetime.datetime:
    return _aware(certificate, "not_valid_before")


def _aware(certificate: x509.Certificate, name: str) -> datetime.datetime:
    """Newer releases of cryptography have `…_utc` and warn about the others."""
    found: datetime.datetime | None = getattr(certificate, f"{name}_utc", None)
    return getattr(certificate, name).replace(tzinfo=datetime.UTC) if found is None else found
