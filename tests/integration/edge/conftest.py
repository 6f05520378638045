"""One Envoy in the open, and one that asks for tokens, in front of one stub orchestrator."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.edge.envoys import Backend, Edge, make_descriptors, running_edge, running_stub
from tests.integration.edge.guarded import Guarded, running_guarded


@pytest_asyncio.fixture(scope="session")
async def backend() -> AsyncIterator[Backend]:
    """What is behind every Envoy."""
    await make_descriptors()
    async with running_stub() as running:
        yield running


@pytest_asyncio.fixture(scope="session")
async def open_edge(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """Envoy as `make up` starts it."""
    async with running_edge(tmp_path_factory.mktemp("open"), backend, {}) as running:
        yield running


@pytest_asyncio.fixture
async def edge(open_edge: Edge) -> Edge:
    """Envoy as `make up` starts it, in front of a stub that remembers nothing."""
    await open_edge.wait_until_used()  # a busy machine may have been late for Envoy's checks
    open_edge.stub.forget()
    return open_edge


@pytest_asyncio.fixture(scope="session")
async def running_guard(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """Envoy with tokens, the mesh's proof, a limit for each tenant, and one origin."""
    async with running_guarded(tmp_path_factory.mktemp("guarded"), backend) as running:
        yield running


@pytest_asyncio.fixture
async def guarded(running_guard: Guarded) -> Guarded:
    """The same, in front of a stub that remembers nothing."""
    await running_guard.edge.wait_until_used()
    running_guard.edge.stub.forget()
    return running_guard
