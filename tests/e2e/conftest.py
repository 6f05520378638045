"""The real stack, started once by the code that `make up` runs, with the example agent and the scripted model."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.dev import agentfile, agents
from services.dev.plan import Options
from services.dev.stack import Stack, running_stack
from services.dev.up import EXAMPLE
from tests.support.command_line import CommandLine, Typed
from tests.support.http_server import HttpServer, running_http_server

START_S = 300
"""The first test of a stack waits for its start, and on a busy machine for the training of the example agent."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(START_S))


async def apply_example(stack: Stack) -> None:
    """Puts the example agent into a stack."""
    await agents.apply(agentfile.read(EXAMPLE), stack.target(), lambda _line: None)


@pytest.fixture(scope="package")
async def receiver() -> AsyncIterator[HttpServer]:
    """What the stack may call back, though it is on this machine and speaks no TLS."""
    async with running_http_server() as server:
        yield server


@pytest.fixture(scope="package")
async def stack(tmp_path_factory: pytest.TempPathFactory, receiver: HttpServer) -> AsyncIterator[Stack]:
    """Six processes. Tests take users and sessions of their own, and leave no part of it stopped."""
    work: Path = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYRIAD_TOOLEXEC_CALLBACK_EXCEPTIONS", receiver.url())
        async with running_stack(work, Options(sim=True), prepare=apply_example) as running:
            patch.undo()
            yield running


@pytest.fixture(scope="package")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """Five processes and a worker, in a folder whose name means something to what prints.

    The tests of the commands leave it running; those of its life, which come after, need not.
    """
    myriad = CommandLine(tmp_path_factory.mktemp("typed") / "[bold]work")
    try:
        started = myriad("up", "--detach")
        assert started.returncode == 0, started.stdout + started.stderr
        yield Typed(myriad, started.stdout)
    finally:
        myriad("down")
