"""Who calls: tokens are verified, their claims become the `x-myriad-*` headers, and no caller can set those itself.

    claim    header             a token without it
    tenant   x-myriad-tenant    is refused
    sub      x-myriad-user      is refused
    roles    x-myriad-roles     has no roles

Envoy proves itself to the services with the token of the mesh, which it reads from a file.
"""

from edge import Edge, Jwt
from keyset import key_source
from sds import secret
from shapes import TYPES, Yaml, header_is, http_filter, named, rbac
from watching import unsampled_parent

from services.kit.interceptors.identity import MESH_TOKEN, ROLES, TENANT, USER

CLOCK_SKEW_S = 30
"""How far the issuer's clock may be from ours, in seconds."""

_CLAIMS = {"tenant": TENANT, "sub": USER, "roles": ROLES}
_SCHEMES = ("Bearer ", "bearer ")
_PRINTABLE = "[ -~]+"


def dropped_headers(edge: Edge) -> Yaml:
    """Headers that count only when Envoy sets them, taken from every request before anything looks at it.

    Without tokens the identity is believed as sent, so only the proof to be Envoy is dropped.
    """
    matchers = [{"exact": MESH_TOKEN} if edge.jwt is None else {"prefix": "x-myriad-"}, {"prefix": "x-envoy-"}]
    if edge.trusted_hops == 0:
        matchers.append({"exact": "x-forwarded-for"})
    mutations: list[Yaml] = [{"remove_on_match": {"key_matcher": matcher}} for matcher in matchers]
    if edge.trusted_hops == 0:
        mutations.append(unsampled_parent())
    kind = f"{TYPES}extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    extension = named("envoy.http.early_header_mutation.header_mutation", {"@type": kind, "mutations": mutations})
    return {"early_header_mutation_extensions": [extension]}


def identity_filters(edge: Edge) -> list[Yaml]:
    """What a request passes until it is known who calls."""
    if edge.jwt is None:
        return []
    return [
        rbac("one_token", "DENY", header_is("authorization", contains=",")),
        http_filter(
            "jwt_authn",
            "JwtAuthentication",
            providers={"issuer": _provider(edge.jwt)},
            strip_failure_response=True,  # it would repeat the request's query
            rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
        ),
        rbac("tenant_and_user", "ALLOW", {"and_ids": {"ids": [_is_there(TENANT), _is_there(USER)]}}),
    ]


def _provider(jwt: Jwt) -> Yaml:
    """How a token is verified.

    `from_headers` names the header, or Envoy would also take a token from the query, which ends in logs. Verified
    tokens are not cached: Envoy's cache outlives the key that signed them.
    """
    return {
        "issuer": jwt.issuer,
        "audiences": [jwt.audience],
        **key_source(jwt),
        "from_headers": [{"name": "authorization", "value_prefix": scheme} for scheme in _SCHEMES],
        "require_expiration": True,
        "max_lifetime": f"{jwt.max_lifetime_s}s",
        "clock_skew_seconds": CLOCK_SKEW_S,
        "forward": False,
        "claim_to_headers": [{"claim_name": claim, "header_name": header} for claim, header in _CLAIMS.items()],
    }


def _is_there(header: str) -> Yaml:
    return header_is(header, safe_regex={"regex": _PRINTABLE})


def proof_filters(edge: Edge) -> list[Yaml]:
    """Adds the token of the mesh to what goes to the services."""
    if edge.mesh_token is None:
        return []
    kind = f"{TYPES}extensions.http.injected_credentials.generic.v3.Generic"
    credential = {"@type": kind, "header": MESH_TOKEN, "credential": secret(edge, "mesh_token")}
    generic = named("envoy.http.injected_credentials.generic", credential)
    return [http_filter("credential_injector", "CredentialInjector", overwrite=True, credential=generic)]
