"""The stores that several contracts are held against, started once: a cluster takes seconds until it serves."""

from collections.abc import AsyncIterator

import pytest

from services.kit.redis import Redis
from tests.support.valkey import running_cluster, running_sentinel, running_valkey


@pytest.fixture(scope="session")
async def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server. Tests take tenants or keys of their own, and neither stop it nor fill it."""
    async with running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="session")
async def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Three primaries, used in the same way."""
    async with running_cluster(tmp_path_factory.mktemp("cluster")) as url:
        yield url


@pytest.fixture(scope="session")
async def sentinel_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A primary and a replica that a Sentinel watches, used in the same way."""
    async with running_sentinel(tmp_path_factory.mktemp("sentinel")) as url:
        yield url


@pytest.fixture(scope="module")
async def one(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of the one server."""
    redis = Redis(valkey_url)
    yield redis
    await redis.close()


@pytest.fixture(scope="module")
async def cluster(cluster_url: str) -> AsyncIterator[Redis]:
    """A client of the cluster."""
    redis = Redis(cluster_url)
    yield redis
    await redis.close()
