"""Checks a message as a receiver of Standard Webhooks does, with another implementation of HMAC than the sender's."""

import base64
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

_TOLERANCE_S = 300


class NotSigned(Exception):
    """No signature is of this message, or it is too old."""


def verified(headers: Mapping[str, str], body: bytes, key: str, *, now: float) -> str:
    """The id of a message that is signed with a key.

    Raises:
        NotSigned: it is not.
    """
    if abs(now - int(headers["webhook-timestamp"])) > _TOLERANCE_S:
        raise NotSigned("too old")
    for each in headers["webhook-signature"].split(" "):
        version, _, signature = each.partition(",")
        mac = HMAC(base64.b64decode(key.removeprefix("whsec_")), hashes.SHA256())
        mac.update(b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body)))
        try:
            mac.verify(base64.b64decode(signature))
        except InvalidSignature:
            continue
        if version == "v1":
            return headers["webhook-id"]
    raise NotSigned("no signature fits")
