"""Certificates of a stack on one machine."""

import datetime
import ssl
import stat
from pathlib import Path

import pytest
import time_machine
from cryptography import x509

from services.dev.certificates import LIFETIME, make_certificates

HOLDERS = {"envoy": ["envoy"], "vertical": ["memory", "nlu"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_certificates(tmp_path / "keys", HOLDERS)
    return tmp_path / "keys"


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def shaken(folder: Path, server: str, client: str | None, name: str) -> None:
    """A handshake between two that trust the authority in `folder`.

    Raises:
        ssl.SSLError: one did not take the other.
    """
    accepts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepts.load_cert_chain(folder / f"{server}.pem", folder / f"{server}.key")
    accepts.load_verify_locations(folder / "ca.pem")
    accepts.verify_mode = ssl.CERT_REQUIRED
    asks = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if client:
        asks.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = asks.wrap_bio(to_client, to_server, server_hostname=name)
    other = accepts.wrap_bio(to_server, to_client, server_side=True)
    waiting = [one, other]
    while waiting:
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue


@pytest.mark.parametrize(
    ("server", "name"), [("envoy", "envoy"), ("vertical", "nlu"), ("envoy", "localhost"), ("envoy", "127.0.0.1")]
)
def test_both_sides_take_each_other(folder: Path, server: str, name: str) -> None:
    shaken(folder, server, "envoy", name)


def test_a_server_is_not_taken_for_another(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(folder, "envoy", "vertical", "memory")


def test_a_client_without_a_certificate_is_not_let_in(folder: Path) -> None:
    with pytest.raises(ssl.SSLError):
        shaken(folder, "envoy", None, "envoy")


def test_a_certificate_of_another_authority_is_not_taken(folder: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other", {"stranger": ["envoy"]})
    for suffix in ("pem", "key"):
        (folder / f"stranger.{suffix}").write_bytes((tmp_path / "other" / f"stranger.{suffix}").read_bytes())
    with pytest.raises(ssl.SSLError):
        shaken(folder, "envoy", "stranger", "envoy")
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(folder, "stranger", "envoy", "envoy")


def test_they_are_kept_and_only_their_owner_reads_them(folder: Path) -> None:
    before = contents(folder)
    make_certificates(folder, HOLDERS)
    assert contents(folder) == before
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_lost_broken_or_does_not_belong_together_is_made_anew(folder: Path) -> None:
    (folder / "envoy.key").write_text((folder / "vertical.key").read_text())
    (folder / "vertical.pem").write_text("broken")
    make_certificates(folder, HOLDERS)
    shaken(folder, "envoy", "vertical", "envoy")


def test_a_new_authority_signs_everything_anew(folder: Path) -> None:
    before = contents(folder)
    (folder / "ca.key").unlink()
    make_certificates(folder, HOLDERS)
    assert all(contents(folder)[name] != before[name] for name in before)
    shaken(folder, "envoy", "vertical", "envoy")


def test_a_certificate_is_replaced_before_it_ends(folder: Path) -> None:
    before = contents(folder)
    with time_machine.travel(datetime.datetime.now(datetime.UTC) + LIFETIME - datetime.timedelta(days=31)):
        make_certificates(folder, HOLDERS)
        assert contents(folder) == before
    with time_machine.travel(datetime.datetime.now(datetime.UTC) + LIFETIME - datetime.timedelta(days=29)):
        make_certificates(folder, HOLDERS)
        assert contents(folder) != before


def test_only_the_authority_signs(folder: Path) -> None:
    for name, is_authority in (("ca", True), ("envoy", False)):
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert basic.ca is is_authority
