"""The stores that several contracts are held against, started once: a cluster takes seconds until it serves."""

from collections.abc import AsyncIterator

import pytest

from services.kit.redis import Redis
from tests.support.valkey import PATIENCE_S, UserRedis, running_cluster, running_sentinel, running_valkey


@pytest.fixture(scope="package")
async def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server. Tests take tenants or keys of their own, and neither stop it nor fill it."""
    async with running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="package")
async def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Three primaries, used in the same way."""
    async with running_cluster(tmp_path_factory.mktemp("cluster")) as url:
        yield url


@pytest.fixture(scope="package")
async def sentinel_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A primary and a replica that a Sentinel watches, used in the same way."""
    async with running_sentinel(tmp_path_factory.mktemp("sentinel")) as url:
        yield url


@pytest.fixture(scope="package")
async def triton_address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A Triton with all models. Tests leave none of them at work."""
    from tests.support.triton import running_triton  # here, because few tests need all that it imports

    async with running_triton(tmp_path_factory.mktemp("triton"), ["embedder", "llm", "sim_llm"]) as address:
        yield address


@pytest.fixture(scope="module")
async def one(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[Redis]:
    """A client of the one server: under the user that the module names (`USER`), or it may do everything."""
    redis = client(request, valkey_url)
    yield redis
    await redis.close()


@pytest.fixture(scope="module")
async def cluster(request: pytest.FixtureRequest, cluster_url: str) -> AsyncIterator[Redis]:
    """A client of the cluster, in the same way."""
    redis = client(request, cluster_url)
    yield redis
    await redis.close()


def client(request: pytest.FixtureRequest, url: str) -> Redis:
    user = getattr(request.module, "USER", "")
    return UserRedis(url, user) if user else Redis(url, timeout=PATIENCE_S)
