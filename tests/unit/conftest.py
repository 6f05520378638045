"""What is the same for all unit tests."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.idle_time import skipped


@pytest.fixture(scope="module", autouse=True)
async def _no_idle_time() -> AsyncIterator[None]:
    """Nothing here waits for what is outside."""
    with skipped(asyncio.get_running_loop()):
        yield
