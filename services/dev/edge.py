"""How the command line reaches Envoy: in the open or by TLS, with a token or with its word."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.dev.login import DEVELOPER, credentials_for
from services.dev.state import Folder, StackState
from services.kit.call import Principal, work_as
from services.kit.clients import Client, Network, service_config

SESSION_S = 24 * 3600.0
"""Longest time one command line talks."""


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
    network = Network(None)
    try:
        if edge.authority is None:
            yield _client(edge, network.client("orchestrator", edge.address).channel)
        else:
            async with _secure(edge.address, edge.authority) as channel:
                yield _client(edge, channel)
    finally:
        await network.close()


def _client(edge: Edge, channel: grpc.aio.Channel) -> Client:
    return Bearer("orchestrator", channel, edge.token) if edge.token else Client("orchestrator", channel, None)


def _secure(address: str, authority: Path) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(authority.read_bytes())
    options = [("grpc.service_config", json.dumps(service_config("orchestrator")))]
    return grpc.aio.secure_channel(address, credentials, options=options)
