"""A part that is gone: the turn goes on without it and says so, or fails and says when to try again."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

import grpc
import pytest

from services.dev.state import State
from services.kit.errors import StoreUnavailable
from services.kit.status import from_proto, from_rpc_error
from tests.support.client import face, kinds, put_agent, until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def user(stack):
    await put_agent(stack, "player")
    async with face(stack) as made:
        yield made


@asynccontextmanager
async def frozen(stack, part):
    """The part's process stands still while the block runs: it holds its connections and answers nothing."""
    pid = stack.state.parts[part].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def ready_again(stack, part, restarts):
    async def ready():
        state = stack.state.parts[part]
        return state.restarts > restarts and state.state is State.READY

    await until(ready, 60)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("nlu", "How many days do I have to return an item?"),
        ("retrieval", "How many days do I have to return an item?"),
        ("toolexec", "Where is my order 1007?"),
    ],
)
async def test_a_service_that_hangs_degrades_the_turn(stack, user, part, text):
    session = await user.session()
    async with frozen(stack, part):
        events = await user.turn(session, text)
    degraded = [event.degraded.component for event in events if event.WhichOneof("event") == "degraded"]
    assert degraded == [part]
    assert kinds(events)[-1] == "completed"
    events = await user.turn(session, text)
    assert "degraded" not in kinds(events)


async def test_dead_toolexec_degrades_the_turn(stack, user):
    session = await user.session()
    restarts = stack.state.parts["toolexec"].restarts
    os.kill(stack.state.parts["toolexec"].pid, signal.SIGKILL)
    events = await user.turn(session, "Where is my order 1007?")
    assert [event.degraded.component for event in events if event.WhichOneof("event") == "degraded"] == ["toolexec"]
    assert kinds(events)[-1] == "completed"
    await ready_again(stack, "toolexec", restarts)


async def test_a_dead_model_tier_fails_the_run_and_says_when_to_try_again(stack, user):
    session = await user.session("player")
    restarts = stack.state.parts["triton"].restarts
    os.kill(stack.state.parts["triton"].pid, signal.SIGKILL)
    events = await user.turn(session, "hello")
    assert kinds(events)[-1] == "failed"
    error = from_proto(events[-1].failed.error)
    assert error.reason == "MODEL_UNAVAILABLE"
    assert error.retry_after > 0
    await ready_again(stack, "triton", restarts)
    await until(lambda: works(user, session), 5)


async def test_a_dead_store_is_unavailable_and_all_recovers_within_five_seconds_of_its_return(stack, user):
    session = await user.session("player")
    assert kinds(await user.turn(session, "hello"))[-1] == "completed"
    async with frozen(stack, "valkey"):
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await user.turn(session, "hello")
        error = from_rpc_error(raised.value, "orchestrator")
        assert isinstance(error, StoreUnavailable)
        assert error.retry_after > 0
        assert time.monotonic() - began < 5
    await until(lambda: works(user, session), 5)
    restarts = stack.state.parts["valkey"].restarts
    os.kill(stack.state.parts["valkey"].pid, signal.SIGKILL)
    await ready_again(stack, "valkey", restarts)
    await until(lambda: works(user, session), 5)


async def works(user, session):
    """Whether a turn completes."""
    try:
        return kinds(await asyncio.wait_for(user.turn(session, "hello"), 3))[-1] == "completed"
    except (grpc.aio.AioRpcError, TimeoutError):
        return False


async def test_a_killed_orchestrator_comes_back_and_shows_what_it_had_logged(stack, user):
    session = await user.session("player")
    before = await user.turn(session, "hello")
    restarts = stack.state.parts["orchestrator"].restarts
    os.kill(stack.state.parts["orchestrator"].pid, signal.SIGKILL)
    await ready_again(stack, "orchestrator", restarts)
    await until(lambda: works(user, session), 10)
    assert await user.watched(before[0].run_id) == before
