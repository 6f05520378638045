"""What the orchestrator does to a run's log by functions, and what turns leave in Redis."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis as Client

from services.kit.call import Principal
from services.kit.errors import (
    Aborted,
    ApprovalInvalid,
    LeaseLost,
    RunNotFound,
    RunNotWaiting,
    SessionBusy,
    SessionNotFound,
)
from services.kit.keys import SessionKeys, UserKeys
from services.kit.redis import Redis
from services.memory.adapters.redis import RedisSessionStore
from services.memory.domain import Concurrency, Ending, Lifetimes, Next, Order, Request, Resumed
from services.orchestrator.adapters.redis import RedisRunLog
from tests.support.proxy import running_proxy

LIFETIMES = Lifetimes(session_ms=60_000, log_ms=30_000, history_cap=6)
LEASE_MS = 10_000


@pytest.fixture(params=["one", "cluster"])
async def redis(request: pytest.FixtureRequest, valkey_url: str, cluster_url: str) -> AsyncIterator[Redis]:
    client = Redis(valkey_url if request.param == "one" else cluster_url)
    yield client
    await client.close()


@dataclass
class Run:
    """A run begun, and what its owner and others do to it."""

    redis: Redis
    principal: Principal
    session_id: str
    number: int
    token: int

    @property
    def keys(self) -> SessionKeys:
        return SessionKeys(self.principal, self.session_id)

    @property
    def names(self) -> tuple[str, str, str, str]:
        return (self.keys.session, self.keys.lease, self.keys.log(self.number), self.keys.work)

    async def append(
        self, first: int, *events: bytes, token: int = 0, lease_ms: int = 0, checkpoint: bytes = b""
    ) -> int:
        arguments = (self.number, token or self.token, first, LIFETIMES.log_ms, lease_ms, checkpoint)
        told: int = await self.redis.call("run_append", self.names, *arguments, *events)
        return told

    async def park(self, first: int, *events: bytes, waiting: str = "answer", wait_ms: int = 120_000) -> int:
        names = (*self.names, self.keys.approvals, self.keys.outbox)
        good_for = json.dumps({"run": self.number, "expires_ms": 2**52, "state": "open"})
        what = (waiting, wait_ms, "COMPLEX", "digest", good_for, 7, 0, 1, 30)
        told: int = await self.redis.call(
            "run_park", names, self.number, self.token, first, LIFETIMES.log_ms, b"so far", *what, *events
        )
        return told

    async def respond(
        self, approval: str = "digest", owner: str = "alice", number: int = 0, answer: str = "alice: yes"
    ) -> bytes:
        names = (self.keys.session, self.keys.work, self.keys.approvals)
        arguments = (owner, number or self.number, approval, "approved", b"yes", answer)
        owner, _ = await self.redis.call("run_respond", names, *arguments)
        return bytes(owner)

    async def wake(self, call: str, response: bytes = b"result") -> bytes:
        names = (self.keys.session, self.keys.work, self.keys.line)
        found: bytes = await self.redis.call("run_wake", names, self.number, call, response)
        return found

    async def cancel(self, user: str = "alice", number: int = 0) -> int:
        names = (self.keys.session, self.keys.lease, self.keys.line)
        found: int = await self.redis.call("run_cancel", names, user, number or self.number)
        return found

    async def read(self, after: int = 0, count: int = 100, user: str = "alice") -> tuple[str, list[bytes]]:
        names = (*self.names, self.keys.line)
        standing, events = await self.redis.call("run_read", names, user, self.number, after, count)
        return standing.decode(), events

    async def end(self, sequence: int, event: bytes = b"last") -> Next | None:
        store = RedisSessionStore(self.redis, LIFETIMES)
        return await store.end(self.principal, self.session_id, Ending(self.number, self.token, sequence, [event]))

    async def resume(self, number: int = 0) -> Resumed:
        store = RedisSessionStore(self.redis, LIFETIMES)
        return await store.resume(self.principal, self.session_id, LEASE_MS, 5, number)

    async def next(self, order: Order = Order(b"asked")) -> "Run":  # noqa: B008
        store = RedisSessionStore(self.redis, LIFETIMES)
        turn = await store.begin(self.principal, self.session_id, None, LEASE_MS, 5, order)
        return Run(self.redis, self.principal, self.session_id, turn.run, turn.token)


@pytest.fixture
async def run(redis: Redis) -> Run:
    principal = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    session = await RedisSessionStore(redis, LIFETIMES).create(principal, uuid.uuid4().hex, "aura", None)
    return await Run(redis, principal, session.session_id, 0, 0).next()


async def test_events_are_read_in_order_from_a_cursor_on(run: Run) -> None:
    assert await run.read() == ("AT_WORK", [])
    assert await run.append(1, b"1", b"\x00\xff") == 0
    assert await run.append(3, b"3") == 0
    assert await run.read() == ("AT_WORK", [b"1", b"\x00\xff", b"3"])
    assert await run.read(after=1, count=1) == ("AT_WORK", [b"\x00\xff"])
    assert await run.read(after=3) == ("AT_WORK", [])
    entries = await run.redis.execute("XRANGE", run.keys.log(1), "2-0", "+")
    assert entries == [[b"2-0", [b"e", b"\x00\xff"]], [b"3-0", [b"e", b"3"]]]
    assert 0 < await run.redis.execute("PTTL", run.keys.log(1)) <= LIFETIMES.log_ms


async def test_events_appended_again_change_nothing(run: Run) -> None:
    await run.append(1, b"1", b"2")
    await run.append(1, b"1", b"2")
    await run.append(2, b"2", b"3")
    assert (await run.read())[1] == [b"1", b"2", b"3"]


async def test_another_event_in_a_taken_place_is_refused_whole(run: Run) -> None:
    await run.append(1, b"1", b"2")
    for first, events in ((2, (b"other", b"3")), (1, (b"other",)), (1, (b"1", b"2", b"3")[::-1])):
        with pytest.raises(LeaseLost):
            await run.append(first, *events)
    assert (await run.read())[1] == [b"1", b"2"]


async def test_a_hole_is_refused(run: Run) -> None:
    with pytest.raises(Aborted):
        await run.append(2, b"2")
    await run.append(1, b"1")
    with pytest.raises(Aborted):
        await run.append(3, b"3")
    with pytest.raises(Aborted):
        await run.end(3)
    await run.end(2)
    assert await run.read() == ("OVER", [b"1", b"last"])


async def test_an_old_token_writes_nothing(run: Run) -> None:
    await run.append(1, b"1")
    await run.redis.execute("UNLINK", run.keys.lease, run.keys.work)
    later = await run.next()
    with pytest.raises(LeaseLost):
        await run.append(2, b"2")
    with pytest.raises(LeaseLost):
        await run.append(2, lease_ms=60_000)
    with pytest.raises(LeaseLost):
        await later.append(1, b"1", token=run.token)
    with pytest.raises(LeaseLost):
        await run.end(2)
    assert await run.read() == ("OVER", [b"1"])
    assert await run.redis.execute("GET", run.keys.lease) == str(later.token).encode()


async def test_a_run_that_ended_takes_no_more_events(run: Run) -> None:
    await run.end(1)
    with pytest.raises(LeaseLost):
        await run.append(2, b"2")
    with pytest.raises(LeaseLost):
        await run.append(2, lease_ms=60_000)
    assert await run.redis.execute("EXISTS", run.keys.lease) == 0


async def test_an_append_holds_the_session_further(run: Run) -> None:
    assert await run.append(1, lease_ms=60_000) == 0
    assert LEASE_MS < await run.redis.execute("PTTL", run.keys.lease) <= 60_000
    await run.append(1, b"1")
    assert await run.redis.execute("PTTL", run.keys.lease) > LEASE_MS
    await run.redis.execute("UNLINK", run.keys.lease, run.keys.work)
    assert await run.read() == ("LOST", [b"1"])
    await run.append(2, b"2", lease_ms=60_000)
    assert await run.read() == ("AT_WORK", [b"1", b"2"])


async def test_a_cancelled_run_is_told_so_and_the_next_is_not(run: Run) -> None:
    assert await run.cancel() == 1
    assert await run.cancel() == 1
    assert await run.append(1) == 1
    assert await run.append(1, b"1") == 1
    await run.end(2)
    assert await run.cancel() == 0
    later = await run.next()
    assert await later.append(1, b"1") == 0
    assert await run.cancel() == 0
    assert await later.append(2, b"2") == 0


async def test_only_its_user_reaches_a_run(run: Run) -> None:
    await run.append(1, b"1")
    for attempt in (run.cancel(user="mallory"), run.cancel(number=2), run.read(user="mallory")):
        with pytest.raises(RunNotFound):
            await attempt
    absent = Run(run.redis, run.principal, "none", 1, 1)
    for attempt in (absent.cancel(), absent.read()):
        with pytest.raises(RunNotFound):
            await attempt
    with pytest.raises(LeaseLost):
        await absent.append(1, b"1")
    for number in (0, -1, 2):
        with pytest.raises(RunNotFound):
            await Run(run.redis, run.principal, run.session_id, number, 1).read()
    assert await run.append(2, b"2") == 0


async def test_anothers_session_comes_into_nobodys_index_and_is_not_made_anew(run: Run) -> None:
    mallory = Principal(run.principal.tenant, "mallory")
    with pytest.raises(SessionNotFound):
        await RedisSessionStore(run.redis, LIFETIMES).begin(mallory, run.session_id, None, LEASE_MS, 5)
    assert await run.redis.execute("EXISTS", UserKeys(mallory).sessions) == 0
    with pytest.raises(SessionNotFound):
        await run.redis.call("session_create", (run.keys.session,), "mallory", "aura", "", LIFETIMES.session_ms)


async def test_a_log_that_expired_is_no_run(run: Run) -> None:
    await run.end(1)
    await run.redis.execute("UNLINK", run.keys.log(1))
    with pytest.raises(RunNotFound):
        await run.read()


async def test_of_many_writers_of_one_place_one_wins(run: Run) -> None:
    results = await asyncio.gather(*(run.append(1, str(i).encode()) for i in range(10)), return_exceptions=True)
    assert sum(result == 0 for result in results) == 1
    assert sum(isinstance(result, LeaseLost) for result in results) == 9


async def test_a_run_that_waits_holds_its_session_but_no_lease(run: Run) -> None:
    assert await run.park(1, b"asks") == 0
    assert await run.read() == ("WAITING", [b"asks"])
    assert await run.redis.execute("EXISTS", run.keys.lease) == 0
    with pytest.raises(SessionBusy):
        await run.next(Order(b"asked", Concurrency.REJECT))
    with pytest.raises(RunNotFound):
        await run.resume()
    assert await run.respond() == b"alice"
    assert await run.read() == ("AT_WORK", [b"asks"])
    resumed = await run.resume()
    assert (resumed.checkpoint, resumed.response, resumed.attempts) == (b"so far", b"yes", 0)


async def test_a_response_is_there_until_the_run_has_made_something_of_it(run: Run) -> None:
    await run.park(1, b"asks")
    await run.respond()
    run.token = (await run.resume()).turn.token
    await run.redis.execute("UNLINK", run.keys.lease)
    again = await run.resume()
    assert (again.response, again.attempts) == (b"yes", 1)
    run.token = again.turn.token
    await run.append(2, b"went on", checkpoint=b"further")
    await run.redis.execute("UNLINK", run.keys.lease)
    assert (await run.resume()).response == b""


async def test_an_approval_is_good_once_and_for_its_run_only(run: Run) -> None:
    await run.park(1, b"asks")
    for attempt in (run.respond("forged"), run.respond(number=1) if run.number != 1 else run.respond("")):
        with pytest.raises(ApprovalInvalid):
            await attempt
    for attempt in (run.respond(owner="mallory"), run.respond(number=run.number + 1)):
        with pytest.raises(RunNotFound):
            await attempt
    assert await run.respond(owner="") == b"alice"  # whoever may approve all
    with pytest.raises(ApprovalInvalid):
        await run.respond(answer="alice: no")


async def test_approvals_are_forgotten_a_while_after_they_expired(run: Run) -> None:
    now, key = int(time.time() * 1000), run.keys.approvals
    ages_s = {**{f"old{n}": 660 for n in range(15)}, "just": 60, "good": -60}
    for name, age_s in ages_s.items():
        entry = {"run": run.number, "state": "approved", "answer": "alice: yes", "expires_ms": now - 1000 * age_s}
        await run.redis.execute("HSET", key, name, json.dumps(entry))
    assert await run.respond("old0") == b"alice"  # the control: it is there
    await run.park(1, b"asks")
    assert set(await run.redis.execute("HKEYS", key)) == {b"just", b"good", b"digest"}
    assert await run.respond("just") == b"alice"
    with pytest.raises(ApprovalInvalid):
        await run.respond("old0")


async def test_the_same_answer_again_is_taken_as_the_first_also_when_the_run_is_over(run: Run) -> None:
    await run.park(1, b"asks")
    await run.respond()
    for _ in range(2):
        run.token = (await run.resume()).turn.token
        assert await run.respond() == b"alice"
        assert (await run.read())[0] == "AT_WORK"
        await run.redis.execute("UNLINK", run.keys.lease)
    await run.end(2)
    assert await run.respond() == b"alice"
    assert await run.read() == ("OVER", [b"asks", b"last"])
    with pytest.raises(ApprovalInvalid):
        await run.respond(answer="bob: yes")
    with pytest.raises(ApprovalInvalid):
        await run.respond("forged")


async def test_an_approval_that_expired_or_came_too_late_is_refused(run: Run) -> None:
    await run.park(1, b"asks")
    expired = json.dumps({"run": run.number, "expires_ms": 1, "state": "open"})
    good = json.dumps({"run": run.number, "expires_ms": 2**52, "state": "open"})
    await run.redis.execute("HSET", run.keys.approvals, "expired", expired, "late", good)
    with pytest.raises(ApprovalInvalid):
        await run.respond("expired")
    await run.respond()
    with pytest.raises(RunNotWaiting):
        await run.respond("late")


async def test_who_waits_for_too_long_is_gone_on_with_unanswered(run: Run) -> None:
    await run.park(1, b"asks", wait_ms=20)
    await asyncio.sleep(0.05)
    resumed = await run.resume()
    assert (resumed.response, resumed.attempts) == (b"", 0)


async def test_a_run_to_be_tried_again_is_not_gone_on_with_before(run: Run) -> None:
    await run.park(1, b"failed", waiting="again", wait_ms=400)
    assert (await run.read())[0] == "QUEUED"
    with pytest.raises(SessionBusy) as raised:
        await run.resume()
    assert 0 < (raised.value.retry_after or 0) <= 0.4
    await asyncio.sleep(0.45)
    assert (await run.resume()).attempts == 0


async def test_only_the_call_it_waits_for_wakes_a_run(run: Run) -> None:
    with pytest.raises(RunNotWaiting):
        await run.wake("call_1_0")
    await run.park(1, b"slow", waiting="tool:call_1_0")
    with pytest.raises(RunNotWaiting):
        await run.wake("call_1_1")
    assert await run.wake("call_1_0") == b"COMPLEX"
    assert await run.wake("call_1_0") == b"COMPLEX"  # who said so may not have put the run anywhere yet
    resumed = await run.resume()
    assert resumed.response == b"result"
    with pytest.raises(RunNotWaiting):
        await run.wake("call_1_0")
    run.token = resumed.turn.token
    await run.end(2)
    with pytest.raises(RunNotFound):
        await run.wake("call_1_0")


async def test_a_run_told_to_stop_does_not_wait(run: Run) -> None:
    await run.cancel()
    assert await run.park(1, b"asks") == 1
    assert await run.read() == ("AT_WORK", [])


async def test_a_run_that_waits_and_is_told_to_stop_can_be_gone_on_with(run: Run) -> None:
    await run.park(1, b"asks")
    assert await run.cancel() == 2
    run.token = (await run.resume()).turn.token
    assert await run.append(2) == 1


@pytest.mark.parametrize(("concurrency", "told"), [("ENQUEUE", 0), ("INTERRUPT", 1), ("ROLLBACK", 2)])
async def test_a_second_run_waits_in_the_line_and_tells_the_first_to_stop_as_asked(
    run: Run, concurrency: str, told: int
) -> None:
    second = await run.next(Order(b"second", Concurrency(concurrency)))
    assert (second.number, second.token) == (run.number + 1, 0)
    assert (await second.read())[0] == "QUEUED"
    assert await run.append(1, b"1") == told
    due = await run.end(2)
    assert due == Next(second.number, b"second")
    with pytest.raises(RunNotFound):
        await run.resume(run.number)
    resumed = await run.resume(second.number)
    assert (resumed.turn.run, resumed.record, resumed.attempts) == (second.number, b"second", 0)


async def test_runs_begin_in_the_order_they_were_accepted_in(run: Run) -> None:
    numbers = [(await run.next(Order(str(n).encode()))).number for n in range(12)]
    begun, held = [], run
    while (due := await held.end(1)) is not None:
        with pytest.raises(SessionBusy):
            await run.resume(numbers[-1]) if due.run != numbers[-1] else await _busy()
        resumed = await run.resume(due.run)
        begun.append(resumed.turn.run)
        held = Run(run.redis, run.principal, run.session_id, resumed.turn.run, resumed.turn.token)
    assert begun == numbers


async def _busy() -> None:
    raise SessionBusy("the last of them is next: there is no other to be before it")


async def test_a_run_that_was_handed_over_has_lost_no_owner(run: Run) -> None:
    for handed, lost in ((True, 0), (False, 1), (True, 1)):
        await run.append(0, lease_ms=-1 if handed else 1)
        await asyncio.sleep(0.01)
        resumed = await run.resume()
        assert resumed.attempts == lost
        run.token = resumed.turn.token


async def test_a_session_lives_until_what_is_due_later_has_begun(run: Run) -> None:
    due_ms = int(time.time() * 1000) + 10 * LIFETIMES.session_ms
    later = await run.next(Order(b"later", defer=True, due_ms=due_ms))
    await run.next(Order(b"now", defer=True))
    await run.end(1)
    keys = later.keys
    for name in (keys.session, keys.line, keys.records):
        assert await run.redis.execute("PTTL", name) > 10 * LIFETIMES.session_ms
    ((waits, due),) = await RedisRunLog(run.redis, 60.0, 10.0).later(run.principal, run.session_id)
    assert (waits.run_id, waits.record, due) == (f"{run.session_id}.{later.number}", b"later", due_ms)
    with pytest.raises(SessionNotFound):
        await RedisRunLog(run.redis, 60.0, 10.0).later(Principal(run.principal.tenant, "mallory"), run.session_id)


async def test_a_run_in_the_line_is_announced_once_and_dropped_once(run: Run) -> None:
    second = await run.next(Order(b"second"))
    third = await run.next(Order(b"third"))
    keys = second.keys
    announced = (keys.session, keys.log(second.number), keys.line)
    for reply in (1, 0):
        assert await run.redis.call("run_announce", announced, "alice", second.number, 60_000, b"1", b"2") == reply
    assert await second.read() == ("QUEUED", [b"1", b"2"])
    assert await run.cancel(number=second.number) == 3
    dropped = (*announced, keys.records, keys.work)
    assert await run.redis.call("run_drop", dropped, "alice", second.number, 60_000, 3, b"gone")
    assert await run.redis.call("run_drop", dropped, "alice", second.number, 60_000, 3, b"gone") == []
    assert await second.read() == ("OVER", [b"1", b"2", b"gone"])
    assert await run.end(1) == Next(third.number, b"third")


async def test_beginning_a_turn_is_one_round_trip_of_two_calls(valkey_url: str) -> None:
    principal = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    async with running_proxy(valkey_url) as (proxy, url):
        redis = Redis(url)
        store = RedisSessionStore(redis, LIFETIMES)
        await store.create(principal, "s1", "aura", None)
        before, calls = proxy.round_trips, await _calls(valkey_url)
        turn = await store.begin(principal, "s1", Request("r", b"d"), LEASE_MS, 5)
        assert proxy.round_trips - before == 1
        assert await _calls(valkey_url) - calls == 2  # one a tag
        await store.end(principal, "s1", Ending(turn.run, turn.token, 1, [b"over"]))
        assert proxy.round_trips - before == 2
        assert proxy.connections == 1
        await redis.close()


async def _calls(url: str) -> int:
    async with Client.from_url(url, protocol=2) as client:
        found = await client.info("commandstats")
        return int(found["cmdstat_fcall"]["calls"])


async def test_listing_takes_what_expired_out_of_the_index_but_not_what_is_being_made(valkey_url: str) -> None:
    redis = Redis(valkey_url)
    principal = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    store, index = RedisSessionStore(redis, LIFETIMES), UserKeys(principal).sessions
    await redis.execute("ZADD", index, 1, "expired")
    await redis.call("session_add", (index,), "coming", b"", LIFETIMES.session_ms, 1)
    assert (await store.page(principal, None, 5)).sessions == []
    assert await redis.execute("ZRANGE", index, 0, -1) == [b"coming"]
    await redis.close()
