"""Signs what is sent to callbacks, as Standard Webhooks has it: HMAC-SHA-256 over id, time and body.

A tenant has up to two keys of its own; or, when the operator has given it none, one of each of the operator's secrets,
derived by HKDF-SHA-256 (RFC 5869) without salt, with the info `myriad-callback <tenant>`, 32 bytes long. All of them
sign, so that a receiver may change from one to the other when it likes.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

PREFIX = "whsec_"
MOST_KEYS = 2
_KEY_BYTES = range(24, 65)
_LEAST_SECRET = 32


class Signer:
    """Knows the keys of tenants."""

    def __init__(self, keys: Mapping[str, str], secrets: Sequence[str]) -> None:
        """Reads the configuration.

        Args:
            keys: Tenant to its keys, `whsec_` and base64, the newer first, with a space between.
            secrets: The operator's, the newer first, of at least 32 characters.

        Raises:
            ValueError: a key or a secret is none, or there are more than two.
        """
        self._keys = {tenant: _read(tenant, text.split()) for tenant, text in keys.items()}
        if len(secrets) > MOST_KEYS or any(len(secret) < _LEAST_SECRET for secret in secrets):
            raise ValueError(f"callback secrets are at most {MOST_KEYS}, of at least {_LEAST_SECRET} characters each")
        self._secrets = [secret.encode() for secret in secrets]

    def can_sign(self, tenant: str) -> bool:
        """Whether there is a key for a tenant."""
        return bool(self._secrets or tenant in self._keys)

    def headers(self, tenant: str, message_id: str, seconds: int, body: bytes) -> dict[str, str]:
        """The headers of one message. `seconds`: when it is sent, since 1970."""
        content = f"{message_id}.{seconds}.".encode() + body
        signatures = (hmac.digest(key, content, hashlib.sha256) for key in self._keys_of(tenant))
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in signatures),
        }

    def _keys_of(self, tenant: str) -> Sequence[bytes]:
        return self._keys.get(tenant) or [derive(secret, tenant) for secret in self._secrets]


def derive(secret: bytes, tenant: str) -> bytes:
    """The key of a tenant that the operator has given none."""
    extracted = hmac.digest(bytes(hashlib.sha256().digest_size), secret, hashlib.sha256)
    return hmac.digest(extracted, f"myriad-callback {tenant}".encode() + b"\x01", hashlib.sha256)


def _read(tenant: str, keys: Sequence[str]) -> Sequence[bytes]:
    try:
        read = [base64.b64decode(key.removeprefix(PREFIX), validate=True) for key in keys]
    except binascii.Error:
        read = []
    if not 0 < len(read) <= MOST_KEYS or any(len(key) not in _KEY_BYTES for key in read):
        raise ValueError(
            f"a callback key of the tenant {tenant} is not {PREFIX} and base64 of 24 to 64 bytes, or has more than two"
        )
    return read
