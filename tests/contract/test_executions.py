"""What every Executions does."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio

from services.kit.call import Principal
from services.kit.errors import ApprovalInvalid, ExecutionNotFound, RunNotFound, StoreUnavailable
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.toolexec.adapters.clock import SystemClock
from services.toolexec.adapters.inmemory_background import InMemoryExecutions
from services.toolexec.adapters.redis_executions import RedisExecutions
from services.toolexec.domain import BackgroundCall, CallKey, Outcome, State
from services.toolexec.ports import Executions
from tests.support.approvals import Approvals
from tests.support.ports import free_port
from tests.support.toolexec import approval
from tests.support.valkey import UserRedis

CALL = BackgroundCall("aura", 3, '{"year": "süß \\u0000"}', "call_1_0", once=False)
ONCE = replace(CALL, once=True)
OUTCOME = Outcome('{"state":"süß \\u0000"}', is_error=True, duration=0.25)
KEY = CallKey("s1.1", "report", "1.0:ab")


@dataclass
class Kept:
    """A store, and what is in its sessions."""

    store: Executions
    approvals: Approvals
    redis: Redis | None

    async def open(self, principal: Principal, session_id: str) -> None:
        """Makes a session the principal's."""
        if self.redis is None:
            self.store.open_session(principal, session_id)
        else:
            name = SessionKeys(principal, session_id).session
            await self.redis.execute("HSET", name, "owner", principal.user)
            await self.redis.execute("PEXPIRE", name, 60_000)


@pytest_asyncio.fixture(scope="module", params=["inmemory", "valkey", "cluster"])
async def kept(request, valkey_url, cluster_url) -> AsyncIterator[Kept]:
    if request.param == "inmemory":
        made = InMemoryExecutions(SystemClock())
        yield Kept(made, Approvals(made.approvals), None)
        return
    redis = UserRedis(valkey_url if request.param == "valkey" else cluster_url, "toolexec")
    yield Kept(RedisExecutions(redis), Approvals(redis.root), redis.root)
    await redis.close()


@pytest.fixture
def store(kept) -> Executions:
    return kept.store


@pytest_asyncio.fixture
async def ann(kept) -> Principal:
    principal = Principal("acme-" + secrets.token_hex(4), "ann")
    await kept.open(principal, "s1")
    return principal


async def test_what_nobody_began_is_not_found(store, ann):
    for asked in (store.read(ann, KEY), store.take(ann, KEY, "t", 3, 60), store.cancel(ann, KEY, 60)):
        with pytest.raises(ExecutionNotFound):
            await asked
    assert not await store.finish(ann, KEY, "t", State.DONE, OUTCOME, "", 60)
    await store.release(ann, KEY, "t")
    assert await store.stopped([(ann, KEY, "t")]) == [True]


async def test_what_is_begun_is_kept_whole_and_once(store, ann):
    begun = await store.begin(ann, KEY, CALL, "", 60)
    assert (begun.state, begun.call, begun.outcome, begun.reason) == (State.RUNNING, CALL, None, "")
    assert await store.begin(ann, KEY, replace(CALL, tool_call_id="other"), "", 60) == begun
    assert await store.read(ann, KEY) == begun


async def test_who_takes_it_ends_it(store, ann):
    await store.begin(ann, KEY, CALL, "", 60)
    assert (await store.take(ann, KEY, "t1", 3, 60)).state is State.RUNNING
    assert await store.stopped([(ann, KEY, "t1"), (ann, KEY, "t2")]) == [False, True]
    assert not await store.finish(ann, KEY, "t2", State.DONE, OUTCOME, "", 60)
    assert await store.finish(ann, KEY, "t1", State.DONE, OUTCOME, "", 60)
    found = await store.read(ann, KEY)
    assert (found.state, found.call, found.outcome, found.reason) == (State.DONE, CALL, OUTCOME, "")
    assert await store.stopped([(ann, KEY, "t1")]) == [True]


ENDS = [(State.FAILED, OUTCOME, "TOOL_TIMEOUT"), (State.DONE, Outcome("", is_error=False, duration=0.0), "")]


@pytest.mark.parametrize(("state", "outcome", "reason"), ENDS)
async def test_every_end_is_kept_whole(store, ann, state, outcome, reason):
    await store.begin(ann, KEY, CALL, "", 60)
    await store.take(ann, KEY, "t1", 3, 60)
    await store.finish(ann, KEY, "t1", state, outcome, reason, 60)
    found = await store.begin(ann, KEY, CALL, "", 60)
    assert (found.state, found.outcome, found.reason) == (state, outcome, reason)


async def test_an_end_is_final(store, ann):
    await store.begin(ann, KEY, CALL, "", 60)
    await store.take(ann, KEY, "t1", 3, 60)
    await store.finish(ann, KEY, "t1", State.DONE, OUTCOME, "", 60)
    assert not await store.finish(ann, KEY, "t1", State.FAILED, None, "X", 60)
    assert (await store.take(ann, KEY, "t2", 3, 60)).state is State.DONE
    assert (await store.cancel(ann, KEY, 60)).state is State.DONE
    assert (await store.read(ann, KEY)).outcome == OUTCOME


async def test_whoever_takes_it_later_alone_ends_it(store, ann):
    await store.begin(ann, KEY, CALL, "", 60)
    await store.take(ann, KEY, "t1", 3, 60)
    assert (await store.take(ann, KEY, "t2", 3, 60)).state is State.RUNNING
    assert await store.stopped([(ann, KEY, "t1"), (ann, KEY, "t2")]) == [True, False]
    assert not await store.finish(ann, KEY, "t1", State.DONE, OUTCOME, "", 60)
    await store.release(ann, KEY, "t1")
    assert await store.finish(ann, KEY, "t2", State.DONE, OUTCOME, "", 60)


async def test_what_has_an_effect_each_time_is_never_begun_twice(store, ann):
    await store.begin(ann, KEY, ONCE, "", 60)
    await store.take(ann, KEY, "t1", 3, 60)
    await store.release(ann, KEY, "t1")  # which it cannot be
    found = await store.take(ann, KEY, "t2", 3, 60)
    assert (found.state, found.reason, found.outcome) == (State.FAILED, "EXECUTION_INTERRUPTED", None)
    assert not await store.finish(ann, KEY, "t1", State.DONE, OUTCOME, "", 60)


async def test_what_is_begun_too_often_fails(store, ann):
    await store.begin(ann, KEY, CALL, "", 60)
    for i in range(3):
        assert (await store.take(ann, KEY, f"t{i}", 3, 60)).state is State.RUNNING
    found = await store.take(ann, KEY, "t3", 3, 60)
    assert (found.state, found.reason) == (State.FAILED, "EXECUTION_INTERRUPTED")


async def test_what_is_released_does_not_count_as_begun(store, ann):
    await store.begin(ann, KEY, CALL, "", 60)
    for i in range(5):
        assert (await store.take(ann, KEY, f"t{i}", 1, 60)).state is State.RUNNING
        await store.release(ann, KEY, f"t{i}")
        assert not await store.finish(ann, KEY, f"t{i}", State.DONE, OUTCOME, "", 60)


async def test_what_is_stopped_stays_so(store, ann):
    await store.begin(ann, KEY, CALL, "", 60)
    await store.take(ann, KEY, "t1", 3, 60)
    for _ in range(2):
        found = await store.cancel(ann, KEY, 60)
        assert (found.state, found.reason, found.call) == (State.CANCELLED, "EXECUTION_CANCELLED", CALL)
    assert await store.stopped([(ann, KEY, "t1")]) == [True]
    assert not await store.finish(ann, KEY, "t1", State.DONE, OUTCOME, "", 60)
    assert (await store.take(ann, KEY, "t2", 3, 60)).state is State.CANCELLED


async def test_it_is_forgotten_after_its_time(store, ann):
    await store.begin(ann, KEY, CALL, "", 0.15)
    other = replace(KEY, tool="other")
    await store.begin(ann, other, CALL, "", 60)
    await store.take(ann, other, "t1", 3, 60)
    await store.finish(ann, other, "t1", State.DONE, OUTCOME, "", 0.15)
    await asyncio.sleep(0.2)
    for key in (KEY, other):
        with pytest.raises(ExecutionNotFound):
            await store.read(ann, key)


async def test_its_end_prolongs_it(store, ann):
    await store.begin(ann, KEY, CALL, "", 0.5)
    await store.cancel(ann, KEY, 60)
    await asyncio.sleep(0.55)
    assert (await store.read(ann, KEY)).state is State.CANCELLED


async def test_an_approval_begins_its_call_once(kept, store, ann):
    token = await kept.approvals.put(ann, KEY)
    begun = await store.begin(ann, KEY, ONCE, token, 60)
    assert await store.begin(ann, KEY, ONCE, token, 60) == begun
    with pytest.raises(ApprovalInvalid):  # of a result store, or of whatever else takes it
        await store.begin(ann, replace(KEY, idempotency_key="2.0:ab"), ONCE, token, 60)


async def test_a_used_approval_begins_nothing_when_the_call_is_forgotten(kept, store, ann):
    token = await kept.approvals.put(ann, KEY)
    await store.begin(ann, KEY, ONCE, token, 0.05)
    await asyncio.sleep(0.1)
    with pytest.raises(ApprovalInvalid):
        await store.begin(ann, KEY, ONCE, token, 60)


@pytest.mark.parametrize("lost", ["interrupted", "failed", "stopped"])
async def test_a_new_approval_begins_anew_what_failed_or_was_stopped(kept, store, ann, lost):
    token = await kept.approvals.put(ann, KEY)
    await store.begin(ann, KEY, ONCE, token, 60)
    await store.take(ann, KEY, "t1", 3, 60)
    if lost == "interrupted":
        await store.take(ann, KEY, "t2", 3, 60)
    elif lost == "failed":
        await store.finish(ann, KEY, "t1", State.FAILED, OUTCOME, "TOOL_TIMEOUT", 60)
    else:
        await store.cancel(ann, KEY, 60)
    ended = await store.read(ann, KEY)
    assert await store.begin(ann, KEY, ONCE, token, 60) == ended  # the used one begins nothing
    again = await kept.approvals.put(ann, KEY, "t2")
    assert (await store.begin(ann, KEY, ONCE, again, 60)).state is State.RUNNING
    assert not await store.finish(ann, KEY, "t1", State.DONE, OUTCOME, "", 60)  # the first is not heard any more
    assert (await store.take(ann, KEY, "t3", 3, 60)).state is State.RUNNING
    assert await store.finish(ann, KEY, "t3", State.DONE, OUTCOME, "", 60)


@pytest.mark.parametrize("done", [False, True])
async def test_a_new_approval_repeats_nothing_that_runs_or_is_done(kept, store, ann, done):
    await store.begin(ann, KEY, ONCE, await kept.approvals.put(ann, KEY), 60)
    await store.take(ann, KEY, "t1", 3, 60)
    if done:
        await store.finish(ann, KEY, "t1", State.DONE, OUTCOME, "", 60)
    found = await store.read(ann, KEY)
    assert await store.begin(ann, KEY, ONCE, await kept.approvals.put(ann, KEY, "t2"), 60) == found
    assert await store.stopped([(ann, KEY, "t1")]) == [done]


@pytest.mark.parametrize("state", ["open", "denied", "used"])
async def test_what_is_not_approved_is_not_begun(kept, store, ann, state):
    token = await kept.approvals.put(ann, KEY, state=state)
    for given in (token, approval("t9")):
        with pytest.raises(ApprovalInvalid):
            await store.begin(ann, KEY, ONCE, given, 60)
    with pytest.raises(ExecutionNotFound):
        await store.read(ann, KEY)


async def test_another_user_or_tenant_never_sees_it(kept, store, ann):
    await store.begin(ann, KEY, CALL, "", 60)
    for other in (Principal(ann.tenant, "bob"), Principal(ann.tenant + "x", "ann")):
        with pytest.raises(ExecutionNotFound):
            await store.read(other, KEY)
        with pytest.raises(ExecutionNotFound):
            await store.cancel(other, KEY, 60)
        assert not await store.finish(other, KEY, "t", State.DONE, OUTCOME, "", 60)
        assert await store.stopped([(other, KEY, "t")]) == [True]
    assert (await store.read(ann, KEY)).state is State.RUNNING


async def test_nothing_is_begun_in_anothers_session(store, ann):
    with pytest.raises(RunNotFound):
        await store.begin(Principal(ann.tenant, "bob"), KEY, CALL, "", 60)


@pytest.mark.parametrize(
    "other", [replace(KEY, run_id="s1.2"), replace(KEY, tool="reports"), replace(KEY, idempotency_key="1.0")]
)
async def test_another_call_is_another_execution(store, ann, other):
    await store.begin(ann, KEY, CALL, "", 60)
    with pytest.raises(ExecutionNotFound):
        await store.read(ann, other)


async def test_a_store_that_is_gone_says_so(ann):
    redis = Redis(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable):
        await RedisExecutions(redis).begin(ann, KEY, CALL, "", 60)
    await redis.close()
