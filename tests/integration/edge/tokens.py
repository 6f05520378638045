"""An issuer of tokens, and tokens of every bad kind."""

import base64
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey

ISSUER, AUDIENCE = "https://issuer.test", "myriad"


class Issuer:
    """Signs tokens with a key of its own."""

    def __init__(self, kid: str = "first") -> None:
        self.key = ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"})

    def public(self) -> dict[str, Any]:
        return dict(self.key.as_dict(private=False))

    def publish(self, jwks: Path, *others: "Issuer") -> None:
        """Moves the key set into place."""
        made = jwks.with_suffix(".new")
        made.write_text(json.dumps({"keys": [each.public() for each in (self, *others)]}))
        os.replace(made, jwks)

    def token(self, **claims: Any) -> str:
        """A good token, but for `claims`; one that is None is left out."""
        return str(jwt.encode({"alg": "ES256", "kid": self.key.kid}, claims_with(claims), self.key))

    def confused(self) -> str:
        """HS256, signed with the public key as if that were a shared secret."""
        signed = f"{_part({'alg': 'HS256', 'kid': self.key.kid, 'typ': 'JWT'})}.{_part(claims_with({}))}"
        digest = hmac.digest(self.key.as_pem(private=False), signed.encode(), "sha256")
        return f"{signed}.{_encoded(digest)}"

    def unsigned(self) -> str:
        """Algorithm `none`."""
        return f"{_part({'alg': 'none', 'kid': self.key.kid, 'typ': 'JWT'})}.{_part(claims_with({}))}."


def _part(content: dict[str, Any]) -> str:
    return _encoded(json.dumps(content).encode())


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def claims_with(changes: dict[str, Any]) -> dict[str, Any]:
    now = int(time.time())
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "tenant": "acme",
        "roles": "user",
        "iat": now,
        "exp": now + 600,
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"authorization": f"Bearer {token}"}
