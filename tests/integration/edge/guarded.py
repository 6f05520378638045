"""Envoy as an installation with an identity provider runs it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.edge.envoys import Backend, Change, Edge, running_edge
from tests.integration.edge.tokens import AUDIENCE, ISSUER, Issuer, bearer

MESH_TOKEN = "the-proof-of-the-mesh"
ORIGIN = "https://console.test"
RPS = 50
"""Requests a second of a tenant."""

FORGED = {
    "x-myriad-tenant": "victim",
    "x-myriad-user": "root",
    "x-myriad-roles": "admin",
    "x-myriad-mesh-token": "forged",
    "x-myriad-anything": "forged",
}


@dataclass
class Guarded:
    """Envoy, and who signs the tokens that it believes."""

    edge: Edge
    issuer: Issuer
    jwks: Path

    def sent(self, **claims: object) -> dict[str, str]:
        """The header with a token of these claims."""
        return bearer(self.issuer.token(**claims))


@asynccontextmanager
async def running_guarded(work: Path, backend: Backend, change: Change | None = None) -> AsyncIterator[Guarded]:
    """Envoy with tokens, the mesh's proof, a limit for each tenant, and one origin.

    Args:
        work: Where its files are.
        backend: What is behind it.
        change: Taken to its configuration before it starts.
    """
    issuer, jwks, mesh = Issuer(), work / "jwks" / "jwks.json", work / "mesh.token"
    jwks.parent.mkdir()
    issuer.publish(jwks)
    mesh.write_text(MESH_TOKEN)
    fields = {
        "jwt": {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(jwks), "max_lifetime_s": 3600},
        "mesh_token": str(mesh),
        "tenant_rps": RPS,
        "cors_origins": [ORIGIN],
    }
    good = bearer(issuer.token(tenant="start"))
    async with running_edge(work, backend, fields, headers=good, change=change) as edge:
        yield Guarded(edge, issuer, jwks)
