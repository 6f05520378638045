"""The stores that several contracts are held against, started once: a cluster takes seconds until it serves."""

from collections.abc import AsyncIterator

import pytest

from tests.support.valkey import running_cluster, running_valkey


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
