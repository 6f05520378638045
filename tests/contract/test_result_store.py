"""What every ResultStore does."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from services.kit.call import Principal
from services.kit.errors import ApprovalInvalid, StoreUnavailable
from services.kit.redis import Redis
from services.toolexec.adapters.clock import SystemClock
from services.toolexec.adapters.inmemory import InMemoryResultStore
from services.toolexec.adapters.redis import RedisResultStore
from services.toolexec.domain import Begun, CallKey, Finished, InProgress, Outcome
from services.toolexec.ports import ResultStore
from tests.support.approvals import Approvals
from tests.support.ports import free_port
from tests.support.toolexec import approval
from tests.support.valkey import UserRedis, running_valkey

OUTCOME = Outcome('{"state":"süß \\u0000"}', is_error=True, duration=0.25)


@dataclass
class Kept:
    """A store, and what persons have approved."""

    store: ResultStore
    approvals: Approvals


@pytest_asyncio.fixture(scope="module", params=["inmemory", "valkey", "cluster"])
async def kept(request, valkey_url, cluster_url) -> AsyncIterator[Kept]:
    if request.param == "inmemory":
        made = InMemoryResultStore(SystemClock())
        yield Kept(made, Approvals(made.approvals))
        return
    redis = UserRedis(valkey_url if request.param == "valkey" else cluster_url, "toolexec")
    yield Kept(RedisResultStore(redis), Approvals(redis.root))
    await redis.close()


@pytest.fixture
def store(kept) -> ResultStore:
    return kept.store


@pytest.fixture
def approvals(kept) -> Approvals:
    return kept.approvals


@pytest.fixture
def ann() -> Principal:
    return Principal("acme-" + secrets.token_hex(4), "ann")


def key(run_id: str = "s1.1", tool: str = "refund", idempotency_key: str = "1.0:ab") -> CallKey:
    return CallKey(run_id, tool, idempotency_key)


async def test_a_key_is_taken_once(store, ann):
    assert isinstance(await store.begin(ann, key(), 5), Begun)
    assert await store.begin(ann, key(), 5) == InProgress()


async def test_of_many_at_once_one_takes_the_key(store, ann):
    found = await asyncio.gather(*(store.begin(ann, key(), 5) for _ in range(50)))
    assert sum(isinstance(each, Begun) for each in found) == 1
    assert sum(isinstance(each, InProgress) for each in found) == 49


async def test_a_finished_call_gives_its_outcome_whole(store, ann):
    begun = await store.begin(ann, key(), 5)
    await store.finish(ann, key(), begun.ticket, OUTCOME, 60)
    for _ in range(2):
        assert await store.begin(ann, key(), 5) == Finished(OUTCOME)


async def test_an_abandoned_key_is_free(store, ann):
    begun = await store.begin(ann, key(), 5)
    await store.abandon(ann, key(), begun.ticket)
    assert isinstance(await store.begin(ann, key(), 5), Begun)


async def test_a_key_never_ended_is_free_after_its_time(store, ann):
    await store.begin(ann, key(), 0.4)
    assert await store.begin(ann, key(), 0.4) == InProgress()
    await asyncio.sleep(0.45)
    assert isinstance(await store.begin(ann, key(), 5), Begun)


async def test_asking_does_not_prolong(store, ann):
    await store.begin(ann, key(), 0.6)
    await asyncio.sleep(0.2)
    assert await store.begin(ann, key(), 5) == InProgress()
    await asyncio.sleep(0.45)
    assert isinstance(await store.begin(ann, key(), 5), Begun)


async def test_an_outcome_is_forgotten_after_its_time(store, ann):
    begun = await store.begin(ann, key(), 5)
    await store.finish(ann, key(), begun.ticket, OUTCOME, 0.1)
    await asyncio.sleep(0.15)
    assert isinstance(await store.begin(ann, key(), 5), Begun)


async def test_one_who_lost_the_key_ends_nothing(store, ann):
    late = await store.begin(ann, key(), 0.05)
    await asyncio.sleep(0.1)
    now = await store.begin(ann, key(), 5)
    await store.abandon(ann, key(), late.ticket)
    await store.finish(ann, key(), late.ticket, OUTCOME, 60)
    assert await store.begin(ann, key(), 5) == InProgress()
    await store.finish(ann, key(), now.ticket, OUTCOME, 60)
    await store.abandon(ann, key(), now.ticket)
    await store.abandon(ann, key(), late.ticket)
    assert await store.begin(ann, key(), 5) == Finished(OUTCOME)


async def test_one_who_lost_the_key_to_nobody_keeps_nothing(store, ann):
    late = await store.begin(ann, key(), 0.05)
    await asyncio.sleep(0.1)
    await store.finish(ann, key(), late.ticket, OUTCOME, 60)
    assert isinstance(await store.begin(ann, key(), 5), Begun)


@pytest.mark.parametrize(
    "other",
    [
        key(run_id="s1.2"),
        key(run_id="s1.11"),
        key(run_id="s2.1"),
        key(tool="refunds"),
        key(idempotency_key="1.0"),
        key(idempotency_key="1.0:ab:"),
        key(idempotency_key="x" * 128),
    ],
)
async def test_another_call_is_another_key(store, ann, other):
    begun = await store.begin(ann, key(), 5)
    await store.finish(ann, key(), begun.ticket, OUTCOME, 60)
    assert isinstance(await store.begin(ann, other, 5), Begun)


async def test_names_that_look_alike_when_joined_are_apart(store, ann):
    await store.begin(ann, key(tool="a", idempotency_key="b:c"), 5)
    assert isinstance(await store.begin(ann, key(tool="a:b", idempotency_key="c"), 5), Begun)


async def test_another_tenant_or_user_never_sees_a_key(store, ann):
    begun = await store.begin(ann, key(), 5)
    await store.finish(ann, key(), begun.ticket, OUTCOME, 60)
    for other in (Principal(ann.tenant, "bob"), Principal(ann.tenant + "/", "ann"), Principal("ann", ann.tenant)):
        theirs = await store.begin(other, key(), 5)
        assert isinstance(theirs, Begun)
        await store.abandon(other, key(), begun.ticket)
        assert await store.begin(other, key(), 5) == InProgress()
    assert await store.begin(ann, key(), 5) == Finished(OUTCOME)


async def test_a_large_outcome_is_kept_whole(store, ann):
    large = Outcome('"' + "x" * 1_048_576 + '"', is_error=False, duration=0.0)
    begun = await store.begin(ann, key(), 5)
    await store.finish(ann, key(), begun.ticket, large, 60)
    assert await store.begin(ann, key(), 5) == Finished(large)


async def test_an_approval_begins_its_call_once(store, approvals, ann):
    token = await approvals.put(ann, key())
    begun = await store.begin_approved(ann, key(), token, 5)
    assert isinstance(begun, Begun)
    assert await store.begin_approved(ann, key(), token, 5) == InProgress()
    await store.finish(ann, key(), begun.ticket, OUTCOME, 60)
    assert await store.begin_approved(ann, key(), token, 5) == Finished(OUTCOME)


async def test_of_many_at_once_one_uses_the_approval(store, approvals, ann):
    token = await approvals.put(ann, key())
    found = await asyncio.gather(*(store.begin_approved(ann, key(), token, 5) for _ in range(50)))
    assert sum(isinstance(each, Begun) for each in found) == 1
    assert sum(isinstance(each, InProgress) for each in found) == 49


@pytest.mark.parametrize("ending", ["abandoned", "never ended"])
async def test_a_used_approval_begins_nothing_again(store, approvals, ann, ending):
    token = await approvals.put(ann, key())
    begun = await store.begin_approved(ann, key(), token, 0.05)
    if ending == "abandoned":
        await store.abandon(ann, key(), begun.ticket)
    else:
        await asyncio.sleep(0.1)
    with pytest.raises(ApprovalInvalid):
        await store.begin_approved(ann, key(), token, 5)
    again = await approvals.put(ann, key(), "t2")
    assert isinstance(await store.begin_approved(ann, key(), again, 5), Begun)


@pytest.mark.parametrize("state", ["open", "denied", "used", "nonsense", ""])
async def test_what_is_not_approved_begins_nothing(store, approvals, ann, state):
    token = await approvals.put(ann, key(), state=state)
    with pytest.raises(ApprovalInvalid):
        await store.begin_approved(ann, key(), token, 5)


async def test_an_expired_approval_begins_nothing(store, approvals, ann):
    token = await approvals.put(ann, key(), lasts_s=0.05)
    await asyncio.sleep(0.1)
    with pytest.raises(ApprovalInvalid):
        await store.begin_approved(ann, key(), token, 5)


async def test_an_expired_approval_still_shows_what_came_of_its_call(store, approvals, ann):
    token = await approvals.put(ann, key(), lasts_s=0.4)
    begun = await store.begin_approved(ann, key(), token, 5)
    await store.finish(ann, key(), begun.ticket, OUTCOME, 60)
    await asyncio.sleep(0.45)
    assert await store.begin_approved(ann, key(), token, 5) == Finished(OUTCOME)


@pytest.mark.parametrize(
    "other", [key(run_id="s1.2"), key(run_id="s2.1"), key(tool="donate"), key(idempotency_key="2.0:ab")]
)
async def test_an_approval_is_of_one_call(store, approvals, ann, other):
    token = await approvals.put(ann, key())
    await approvals.put(ann, other, "theirs")  # their session is there, too
    with pytest.raises(ApprovalInvalid):
        await store.begin_approved(ann, other, token, 5)
    assert isinstance(await store.begin_approved(ann, key(), token, 5), Begun)


async def test_an_approval_is_no_other_users_or_tenants(store, approvals, ann):
    token = await approvals.put(ann, key())
    for other in (Principal(ann.tenant, "bob"), Principal(ann.tenant + "x", "ann")):
        with pytest.raises(ApprovalInvalid):
            await store.begin_approved(other, key(), token, 5)


async def test_a_token_nobody_was_given_begins_nothing(store, approvals, ann):
    await approvals.put(ann, key())
    for token in (approval("t9"), "0" * 64):
        with pytest.raises(ApprovalInvalid):
            await store.begin_approved(ann, key(), token, 5)


async def test_a_refused_call_leaves_its_key_and_its_approval_as_they_were(store, approvals, ann):
    token = await approvals.put(ann, key())
    with pytest.raises(ApprovalInvalid):
        await store.begin_approved(ann, key(), approval("t9"), 5)
    assert isinstance(await store.begin_approved(ann, key(), token, 5), Begun)


async def test_a_store_that_is_gone_says_so(ann):
    redis = Redis(f"redis://127.0.0.1:{free_port()}")
    store = RedisResultStore(redis)
    with pytest.raises(StoreUnavailable):
        await store.begin(ann, key(), 5)
    await redis.close()


async def test_every_key_in_redis_has_a_lifetime(tmp_path, ann):
    async with running_valkey(tmp_path) as url:
        redis = Redis(url)
        store = RedisResultStore(redis)
        for i in range(3):
            begun = await store.begin(ann, key(idempotency_key=str(i)), 5)
            if i:
                await store.finish(ann, key(idempotency_key=str(i)), begun.ticket, OUTCOME, 60)
        names = await redis.execute("KEYS", "*")
        assert len(names) == 4  # one more says which there are
        assert all(f"{{{ann.tenant}/s1}}".encode() in name for name in names)
        lives = sorted([await redis.execute("PTTL", name) for name in names])
        assert 0 < lives[0] <= 5_000 < lives[1] <= lives[2] <= 60_000
        await redis.close()
