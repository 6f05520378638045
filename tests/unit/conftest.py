"""What is the same for all unit tests."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import settings

from tests.support.idle_time import skipped


def pytest_configure() -> None:
    """The same examples in every run and on every machine, however slow it is."""
    settings.load_profile("ci")


@pytest.fixture(scope="module", autouse=True)
async def _no_idle_time() -> AsyncIterator[None]:
    """Nothing here waits for what is outside."""
    with skipped(asyncio.get_running_loop()):
        yield
