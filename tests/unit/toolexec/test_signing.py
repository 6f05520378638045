"""Signatures as a receiver checks them, by another implementation of HMAC and HKDF than ours."""

import base64

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.toolexec.core.signing import Signer
from tests.support.webhooks import NotSigned, verified

OLD, NEW = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
SECRET, NEXT = "the operator's secret, long enough", "the operator's next secret, long enough"
BODY = b'{"a":1}'


def derived(secret: str, tenant: str) -> str:
    made = HKDF(hashes.SHA256(), 32, None, f"myriad-callback {tenant}".encode()).derive(secret.encode())
    return "whsec_" + base64.b64encode(made).decode()


def test_a_tenants_key_signs():
    headers = Signer({"acme": NEW}, []).headers("acme", "msg_1", 1_700_000_000, BODY)
    assert headers["webhook-id"] == "msg_1"
    assert headers["webhook-timestamp"] == "1700000000"
    verified(headers, BODY, NEW, now=1_700_000_000)


@pytest.mark.parametrize("change", ["webhook-id", "webhook-timestamp", "body", "key"])
def test_what_was_altered_is_not_signed(change):
    headers = Signer({"acme": NEW}, []).headers("acme", "msg_1", 1_700_000_000, BODY)
    body = b'{"a":2}' if change == "body" else BODY
    if change in headers:
        headers[change] = {"webhook-id": "msg_2", "webhook-timestamp": "1700000001"}[change]
    with pytest.raises(NotSigned):
        verified(headers, body, OLD if change == "key" else NEW, now=1_700_000_000)


def test_while_keys_change_both_sign():
    headers = Signer({"acme": f"{NEW} {OLD}"}, []).headers("acme", "msg_1", 1_700_000_000, BODY)
    assert len(headers["webhook-signature"].split()) == 2
    for key in (OLD, NEW):
        verified(headers, BODY, key, now=1_700_000_000)


def test_a_tenant_without_a_key_has_one_derived_of_each_secret():
    headers = Signer({"acme": NEW}, [NEXT, SECRET]).headers("other", "msg_1", 1_700_000_000, BODY)
    for secret in (SECRET, NEXT):
        verified(headers, BODY, derived(secret, "other"), now=1_700_000_000)
    for key in (NEW, derived(SECRET, "acme")):
        with pytest.raises(NotSigned):
            verified(headers, BODY, key, now=1_700_000_000)


def test_without_any_key_nothing_can_be_signed():
    assert not Signer({"acme": NEW}, []).can_sign("other")
    assert Signer({"acme": NEW}, []).can_sign("acme")
    assert Signer({}, [SECRET]).can_sign("other")


@pytest.mark.parametrize(
    "keys", ["", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", f"{OLD} {NEW} {OLD}", "whsec_" + "A" * 120]
)
def test_a_key_that_is_none_stops_the_start_and_is_not_repeated(keys):
    with pytest.raises(ValueError, match="a callback key of the tenant acme") as caught:
        Signer({"acme": keys}, [])
    assert keys in {"", "whsec_"} or keys not in str(caught.value)


@pytest.mark.parametrize("secrets", [["short"], [SECRET, ""], [SECRET, NEXT, "a third secret, long enough as well."]])
def test_secrets_that_are_too_short_or_too_many_stop_the_start(secrets):
    with pytest.raises(ValueError, match="callback secrets") as caught:
        Signer({}, secrets)
    assert "short" not in str(caught.value)
