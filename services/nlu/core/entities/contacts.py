"""E-mail addresses, URLs and phone numbers."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from phonenumbers import Leniency, PhoneNumberFormat, PhoneNumberMatcher, format_number

from services.nlu.core.entities.spans import Entity

_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_URL = re.compile(r"(?<![\w@.])(?:https?://|www\.)[^\s<>\"'`]{1,2000}", re.IGNORECASE)
_URL_TAIL = ".,;:!?*_~"
_CLOSERS = {")": "(", "]": "[", "}": "{"}
_PHONE_HINT = re.compile(r"[+＋]\W{0,3}\d|(?:\d\W{0,3}){7}")
_PHONE_TRIES = 50


def emails(text: str) -> Iterator[Entity]:
    """E-mail addresses. The value has its domain in lower case; what stands before the @ may be case-sensitive."""
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        local, _, domain = match.group().rpartition("@")
        if ".." not in local and not local.startswith(".") and not local.endswith("."):
            yield Entity("email", match.group(), match.start(), match.end(), f"{local}@{domain.lower()}")


def urls(text: str) -> Iterator[Entity]:
    """Web addresses: those with a scheme, and those that begin with `www.`, whose value gets `https://`."""
    if "://" not in text and "www." not in text.lower():
        return
    for match in _URL.finditer(text):
        found = _without_tail(match.group())
        value = _normal_url(found)
        if value:
            yield Entity("url", found, match.start(), match.start() + len(found), value)


def may_hold_phone(text: str) -> bool:
    """Cheap: False when there is surely no phone number."""
    return _PHONE_HINT.search(text) is not None


def phones(text: str, region: str) -> Iterator[Entity]:
    """Valid phone numbers; the value is E.164.

    Args:
        text: The text.
        region: Country whose national numbers count. Empty: only international numbers.
    """
    if not may_hold_phone(text):
        return
    for match in PhoneNumberMatcher(text, region or None, leniency=Leniency.VALID, max_tries=_PHONE_TRIES):
        value = format_number(match.number, PhoneNumberFormat.E164)
        yield Entity("phone", match.raw_string, match.start, match.end, value)


def _without_tail(found: str) -> str:
    """Without the punctuation of the sentence around it; a closing bracket stays when it was opened within."""
    while found:
        last = found[-1]
        opener = _CLOSERS.get(last)
        if last not in _URL_TAIL and (opener is None or found.count(last) <= found.count(opener)):
            return found
        found = found[:-1]
    return found


def _normal_url(found: str) -> str:
    """Scheme and host in lower case. Empty: it is no address after all."""
    try:
        parts = urlsplit(found if "://" in found else f"https://{found}")
    except ValueError:  # brackets that are no IPv6 address
        return ""
    user, at, host = parts.netloc.rpartition("@")
    if not host.strip("."):
        return ""
    return urlunsplit(parts._replace(scheme=parts.scheme.lower(), netloc=f"{user}{at}{host.lower()}"))
