"""`myriad login`: who the command line is towards a stack that asks, kept in the work folder until its token ends."""

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from services.dev.command import Failed
from services.dev.show import typed
from services.dev.state import Folder, write_secret
from services.kit.call import Principal

DEVELOPER = Principal("dev", "dev", frozenset({"admin"}))
"""Who the command line is unless told otherwise."""

USUAL_TTL = "8h"

_UNITS_S = {"s": 1, "m": 60, "h": 3600}


class NotLoggedIn(Failed):
    """The stack asks who calls, and there is no token for the answer. The message says what to type."""


@dataclass(frozen=True)
class Credentials:
    """A token and whom it names."""

    token: str
    tenant: str
    user: str
    roles: frozenset[str]
    expires: float
    """Unix time."""

    @property
    def principal(self) -> Principal:
        """Whom the token names."""
        return Principal(self.tenant, self.user, self.roles)


def log_in(folder: Folder, principal: Principal, ttl_s: int) -> Credentials:
    """Mints a token and keeps it.

    Raises:
        NotLoggedIn: there are no keys here to sign it with.
        ValueError: it would live too long, or not at all.
    """
    # Not at the top: every command would wait for the cryptography that one of them needs.
    from services.dev import identity

    if not 1 <= ttl_s <= identity.LONGEST_TTL_S:
        raise ValueError(f"a token lives 1 s to {identity.LONGEST_TTL_S // 3600} h")
    try:
        token = identity.mint(folder.keys, principal, ttl_s)
    except FileNotFoundError:
        start = typed(folder.path, "up", "--auth")
        raise NotLoggedIn(
            f"There are no keys in {folder.keys} to sign a token with. They are made by: {start}"
        ) from None
    made = Credentials(token, principal.tenant, principal.user, principal.roles, time.time() + ttl_s)
    known = {"token": token, "tenant": made.tenant, "user": made.user, "roles": sorted(made.roles)}
    write_secret(folder.credentials, json.dumps({**known, "expires": made.expires}) + "\n")
    return made


def logged_in(folder: Folder) -> Credentials | None:
    """Who is logged in. None: nobody, or the token has ended."""
    try:
        known = json.loads(folder.credentials.read_text())
        found = Credentials(**{**known, "roles": frozenset(known["roles"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if found.expires > time.time() else None


def credentials_for(folder: Folder, tenant: str | None, user: str | None) -> Credentials:
    """The token of a command that calls Envoy.

    Args:
        folder: Of the stack.
        tenant: On whose behalf the command was asked to call; None: that of the token.
        user: The same of the user.

    Raises:
        NotLoggedIn: nobody is, or another than the command names.
    """
    found = logged_in(folder)
    if found is None:
        raise NotLoggedIn(f"Nobody is logged in, or the token has ended. Run: {typed(folder.path, 'login')}")
    wanted = (tenant or found.tenant, user or found.user)
    if wanted != (found.tenant, found.user):
        command = typed(folder.path, "login", "--tenant", wanted[0], "--user", wanted[1])
        raise NotLoggedIn(f"{found.user} of {found.tenant} is logged in. To be another, run: {command}")
    return found


def principal_for(folder: Folder, tenant: str | None, user: str | None, *, auth: bool) -> Principal:
    """On whose behalf a command works that speaks to the services themselves."""
    known = logged_in(folder) if auth else None
    usual = known.principal if known else DEVELOPER
    wanted = (tenant or usual.tenant, user or usual.user)
    return usual if wanted == (usual.tenant, usual.user) else Principal(*wanted, DEVELOPER.roles)


def seconds(text: str) -> int:
    """A length of time: `90s`, `30m`, `8h`; a bare number is seconds.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smh]?)", text)
    if found is None:
        raise ValueError(f"must be a time as 90s, 30m or 8h, is {text!r}")
    return int(found[1]) * _UNITS_S[found[2] or "s"]


def roles_of(names: Iterable[str]) -> frozenset[str]:
    """The roles that were named; the usual ones when none was.

    Raises:
        ValueError: a role cannot stand in a list that blanks part.
    """
    roles = frozenset(names)
    for role in roles:
        if not re.fullmatch(r"[A-Za-z0-9_:.-]{1,64}", role):
            raise ValueError(f"a role is 1 to 64 letters, digits and _ : . -, not {role!r}")
    return roles or DEVELOPER.roles
