"""One stack for all faults, and memory alone with its store. Each case leaves both as it found them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.dev import supervisor
from tests.faults.alone import Alone, memory_alone
from tests.faults.bare_envoy import running_bare_envoy
from tests.faults.lines import ALL_LINKS
from tests.faults.orders import Customers, customers_of
from tests.faults.rig import CALLS_SHOP, Rig, desk_turn, running_rig, whole
from tests.support.client import Face, face
from tests.support.waiting import until

START_S = 300
"""The first test of a stack waits for its start."""

BACK_S = 30
"""A circuit is open for seconds, and a part that died often is started again after a while."""

WARM = 16
"""Turns at once that open connections before anything is counted."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.alone)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(START_S))


@pytest.fixture(scope="package")
async def running_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """The stack, warm."""
    async with running_rig(tmp_path_factory.mktemp("faults")) as started:
        await warm(started)
        yield started


@pytest.fixture(scope="module")
async def running_lines(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """A stack without replicas in which every line can be cut, warm."""
    async with running_rig(tmp_path_factory.mktemp("lines"), links=ALL_LINKS, replicas={}) as started:
        await warm(started)
        yield started


async def warm(started: Rig) -> None:
    """Opens connections, and takes down what is open then."""
    async with face(started.stack) as warming:
        sessions = await asyncio.gather(*(warming.session("desk") for _ in range(WARM)))
        await asyncio.gather(*(warming.turn(session, CALLS_SHOP) for session in sessions))
        # On a slow machine they were too many for a model that has just started, and its circuit is open.
        await until(lambda: all_whole(warming, WARM), 60)
    await started.settled()
    await started.rest()


@pytest.fixture(scope="package")
async def bare(running_stack: Rig, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """A stub of the orchestrator behind an Envoy without guards."""
    async with running_bare_envoy(running_stack, tmp_path_factory.mktemp("bare")) as stub:
        yield stub


async def all_whole(user: Face, turns: int) -> bool:
    """Whether so many turns, one after the other, are whole."""
    for _ in range(turns):
        if not whole(await desk_turn(user)):
            return False
    return True


async def answers_whole(user: Face) -> bool:
    """Whether every part does its share again, and not by chance: some have a replica beside them."""
    try:
        return await all_whole(user, 3)
    except grpc.aio.AioRpcError:
        return False


@asynccontextmanager
async def as_found(stack: Rig) -> AsyncIterator[Rig]:
    """A stack, all of which is back from the case before; nothing of this one is left in it afterwards."""
    async with face(stack.stack) as asking:
        await until(lambda: answers_whole(asking), BACK_S)
    yield stack
    stack.points.disarm()
    for proxy in stack.links.values():
        proxy.resume()
    await stack.settled()


@pytest.fixture
async def rig(running_stack: Rig) -> AsyncIterator[Rig]:
    """The stack."""
    async with as_found(running_stack) as found:
        yield found


@pytest.fixture
async def lines(running_lines: Rig) -> AsyncIterator[Rig]:
    """The stack of which every line can be cut."""
    async with as_found(running_lines) as found:
        yield found


@pytest.fixture
async def user(rig: Rig) -> AsyncIterator[Face]:
    """A client of the stack."""
    async with face(rig.stack) as made:
        yield made


@pytest.fixture
async def customers(rig: Rig) -> AsyncIterator[Customers]:
    """Clients of the stack as the command line is one."""
    async with customers_of(rig) as made:
        yield made


@pytest.fixture(scope="module")
def quick_restarts() -> Iterator[None]:
    """A part that is killed again and again is started again at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "LONGEST_BACKOFF_S", supervisor.FIRST_BACKOFF_S)
        yield


@pytest.fixture(scope="module")
async def running_memory(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Alone]:
    """Memory alone, once for a module."""
    async with memory_alone(tmp_path_factory.mktemp("alone")) as alone:
        yield alone


@pytest.fixture
async def alone(running_memory: Alone) -> AsyncIterator[Alone]:
    """Memory alone, its line to the store whole again afterwards."""
    yield running_memory
    running_memory.to_store.resume()
