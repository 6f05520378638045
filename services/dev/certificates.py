"""Certificates for the stack on one machine: an authority of its own, and one certificate for each that speaks TLS."""

import datetime
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.dev.state import write_secret

AUTHORITY = "ca"
OPERATOR = "operator"
"""Name in the certificate of the command line and of the launcher's probes."""

LIFETIME = datetime.timedelta(days=365)
RENEW_BEFORE = datetime.timedelta(days=30)
"""A certificate that ends sooner is made anew at the next start."""

_BACKDATED = datetime.timedelta(minutes=5)


def make_certificates(folder: Path, holders: Mapping[str, Sequence[str]]) -> None:
    """Makes `ca.pem`, and `<holder>.pem` with `<holder>.key` for each holder, for their owner only; keeps good ones.

    When the authority has to be made anew, so is everything it signed.

    Args:
        folder: Where to.
        holders: By file name, the names that the certificate says beside `localhost` and 127.0.0.1. It is good for
            servers and for clients.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_good(folder, AUTHORITY):
        for stale in folder.glob("*.pem"):
            stale.unlink()
        _make(folder, AUTHORITY)
    for holder, names in holders.items():
        if not _is_good(folder, holder):
            _make(folder, holder, names)


def _is_good(folder: Path, name: str) -> bool:
    """Whether both files are there, belong to each other, and last."""
    try:
        certificate, key = _load(folder, name)
    except (OSError, ValueError):
        return False
    ends = certificate.not_valid_after_utc
    return certificate.public_key() == key.public_key() and ends > _now() + RENEW_BEFORE


def _make(folder: Path, name: str, says: Sequence[str] = ()) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = name == AUTHORITY
    issuer, signer = (None, key) if authority else _load(folder, AUTHORITY)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "myriad-dev" if authority else name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _BACKDATED)
        .not_valid_after(_now() + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(_usage(authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not authority:
        here: list[x509.GeneralName] = [x509.DNSName(each) for each in (*says, "localhost")]
        here.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(x509.SubjectAlternativeName(here), critical=False)
        builder = builder.add_extension(both, critical=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(folder / f"{name}.key", private.decode())
    signed = builder.sign(signer, hashes.SHA256())
    write_secret(folder / f"{name}.pem", signed.public_bytes(serialization.Encoding.PEM).decode())


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(folder: Path, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{name}.key is of another kind")
    return certificate, key


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
