"""One `Principal` a call, from the headers Envoy sets from verified claims, and only beside proof of a mesh peer."""

import hmac
from typing import Any

from services.kit.call import Call, Principal
from services.kit.chain import Interceptor, Method, Proceed
from services.kit.errors import InvalidArgument, RoleRequired, Unauthenticated

TENANT, USER, ROLES, MESH_TOKEN = "x-myriad-tenant", "x-myriad-user", "x-myriad-roles", "x-myriad-mesh-token"
INPROC_PEER = "inproc"
"""Peer of a call within the process."""

_LONGEST = 256
_DEVELOPER = Principal("dev", "dev", frozenset({"admin"}))


def identity(mesh_token: str | None) -> Interceptor:
    """Finds out on whose behalf a call is made, and whether they may make it.

    Args:
        mesh_token: What a peer of the mesh proves itself with, over TLS too. Empty: it did so with its certificate,
            when it connected. None (`insecure-dev`): identity is believed as sent, and a call without one is the
            developer's, tenant `dev`, user `dev`, role `admin`.
    """

    async def identified(call: Call, method: Method, proceed: Proceed) -> Any:
        if mesh_token and call.peer != INPROC_PEER:
            prove(call, mesh_token)
        call.principal = principal_of(call, developer=mesh_token is None)
        if call.principal is None and not method.access.public:
            raise Unauthenticated("the call names no tenant and user")
        roles = method.access.roles
        if roles and not (call.principal and call.principal.roles.intersection(roles)):
            raise RoleRequired(f"needs one of the roles {', '.join(roles)}")
        return await proceed(call)

    return identified


def prove(call: Call, mesh_token: str) -> None:
    """Lets only peers of the mesh in.

    Raises:
        Unauthenticated: the call does not carry the mesh's token.
    """
    if not hmac.compare_digest(call.metadata.get(MESH_TOKEN, "").encode(), mesh_token.encode()):
        raise Unauthenticated("not a peer of the mesh")


def principal_of(call: Call, *, developer: bool) -> Principal | None:
    """On whose behalf a call is made. None: it does not say, and is not the developer's.

    Raises:
        InvalidArgument: a name is not 1 to 256 printable ASCII characters, as OpenID Connect's `sub` is.
    """
    tenant, user = call.metadata.get(TENANT, ""), call.metadata.get(USER, "")
    if not tenant and not user:
        return _DEVELOPER if developer else None
    for header, value in ((TENANT, tenant), (USER, user)):
        if not (0 < len(value) <= _LONGEST and value.isascii() and value.isprintable()):
            text = f"must be 1 to {_LONGEST} printable ASCII characters"
            raise InvalidArgument(f"{header}: {text}", fields={header: text})
    return Principal(tenant, user, frozenset(call.metadata.get(ROLES, "").split()))


def metadata_of(principal: Principal, mesh_token: str | None) -> list[tuple[str, str]]:
    """What a call on behalf of `principal` carries to another service of ours."""
    carried = [(TENANT, principal.tenant), (USER, principal.user)]
    if principal.roles:
        carried.append((ROLES, " ".join(sorted(principal.roles))))
    if mesh_token:
        carried.append((MESH_TOKEN, mesh_token))
    return carried
