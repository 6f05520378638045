"""How the command line reaches Envoy: in the open or by TLS, with a token or with its word."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.dev.login import DEVELOPER, credentials_for
from services.dev.state import Folder, StackState
from services.kit.call import Principal, work_as
from services.kit.clients import Client, channel_options

SESSION_S = 24 * 3600.0
"""Longest time one command line talks."""

_FIRST_PAUSE_MS = (500, 3_000)
"""A connection that could not be made is tried again after some time in between."""

_LONGEST_PAUSE_MS = 3_000


@dataclass(frozen=True)
class Edge:
    """Envoy, and who calls it."""

    address: str
    principal: Principal
    token: str = ""
    """What proves who calls. Empty: the caller is believed."""

    authority: Path | None = None
    """File of the authority that signed Envoy's certificate. None: it speaks no TLS."""


def edge_of(folder: Folder, state: StackState, tenant: str | None, user: str | None) -> Edge:
    """How to reach the Envoy of a stack, on behalf of whom a command names or of whom is logged in.

    Raises:
        NotLoggedIn: the stack asks for a token, and there is none for them.
    """
    authority = folder.keys / "ca.pem" if state.tls else None
    address = state.addresses["envoy"]
    if not state.auth:
        believed = Principal(tenant or DEVELOPER.tenant, user or DEVELOPER.user, DEVELOPER.roles)
        return Edge(address, believed, authority=authority)
    known = credentials_for(folder, tenant, user)
    return Edge(address, known.principal, known.token, authority)


class Bearer(Client):
    """Calls with a token."""

    def __init__(self, service: str, channel: grpc.aio.Channel, token: str) -> None:
        """Calls `service` over `channel`."""
        super().__init__(service, channel, None)
        self._token = token

    def _metadata(self) -> list[tuple[str, str]]:
        return [*super()._metadata(), ("authorization", f"Bearer {self._token}")]


@asynccontextmanager
async def orchestrator_at(edge: Edge) -> AsyncIterator[Client]:
    """A client of the orchestrator through Envoy."""
    work_as(edge.principal, name="myriad", timeout=SESSION_S)
    async with _channel(edge) as channel:
        yield Bearer("orchestrator", channel, edge.token) if edge.token else Client("orchestrator", channel, None)


def _channel(edge: Edge) -> grpc.aio.Channel:
    # Of gRPC's own pauses only a fifth is chance: clients that lost Envoy together would come back together.
    options = channel_options("orchestrator", (round(random.uniform(*_FIRST_PAUSE_MS)), _LONGEST_PAUSE_MS))
    if edge.authority is None:
        return grpc.aio.insecure_channel(edge.address, options=options)
    credentials = grpc.ssl_channel_credentials(edge.authority.read_bytes())
    return grpc.aio.secure_channel(edge.address, credentials, options=options)
