"""Who calls a stack that asks for it: the key set that signs tokens, the mesh's own token, and minting.

For one machine and its developer. A key set made here is trusted by the Envoy of the same work folder, and by no other.
"""

import json
import secrets
import time
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import ECKey

from services.dev.state import write_secret
from services.kit.call import Principal

ISSUER = "myriad-dev"
AUDIENCE = "myriad"

LONGEST_TTL_S = 24 * 3600
"""Longest life of a token; Envoy refuses those that live longer."""

_ALGORITHM = "ES256"
_BACKDATED_S = 5


def make_keys(folder: Path) -> None:
    """Makes what is not there in `folder`: `signing.json`, `jwks.json` and `mesh.token`, for their owner only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "signing.json").exists():
        key = ECKey.generate_key("P-256", {"kid": secrets.token_hex(8), "use": "sig", "alg": _ALGORITHM})
        write_secret(folder / "signing.json", json.dumps(key.as_dict(private=True)))
    # From the private one each time: a start that was cut between the two leaves no pair that does not fit.
    public = _signing_key(folder).as_dict(private=False)
    write_secret(folder / "jwks.json", json.dumps({"keys": [public]}))
    if not (folder / "mesh.token").exists():
        write_secret(folder / "mesh.token", secrets.token_urlsafe(32) + "\n")


def mint(folder: Path, principal: Principal, ttl_s: int) -> str:
    """A signed token for `principal`.

    Args:
        folder: Where `make_keys` made the keys.
        principal: Whom the token names.
        ttl_s: Seconds it is good for; `LONGEST_TTL_S` at most.

    Raises:
        FileNotFoundError: there are no keys.
    """
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": principal.user,
        "tenant": principal.tenant,
        "roles": " ".join(sorted(principal.roles)),
        "iat": now - _BACKDATED_S,  # the clock that checks may be behind by a moment
        "nbf": now - _BACKDATED_S,
        "exp": now - _BACKDATED_S + ttl_s,
        "jti": secrets.token_hex(16),
    }
    key = _signing_key(folder)
    return jwt.encode({"alg": _ALGORITHM, "kid": key.kid}, claims, key, algorithms=[_ALGORITHM])


def _signing_key(folder: Path) -> ECKey:
    return ECKey.import_key(json.loads((folder / "signing.json").read_text()))
