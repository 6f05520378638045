from collections.abc import AsyncIterator

import pytest

from tests.security.world import World, running_world


@pytest.fixture(scope="package")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Started once. Tests take tenants of their own."""
    async with running_world(tmp_path_factory.mktemp("world")) as running:
        yield running
