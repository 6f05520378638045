"""ForkStore and what is decided with it: one list of behaviours for the fake, one Redis and a cluster."""

import asyncio
import uuid
from typing import Any

import pytest

from myriad.common.v1 import common_pb2
from services.kit.call import Principal
from services.kit.errors import RequestIdReused, RunNotFound, SessionNotFound, StoreUnavailable
from services.kit.keys import SessionKeys, UserKeys
from services.kit.redis import Redis
from services.kit.run_ids import write_run_id
from services.memory.adapters.inmemory import InMemorySessionStore
from services.memory.adapters.redis import RedisSessionStore
from services.memory.adapters.redis_forks import RedisForkStore
from services.memory.codec import read_message
from services.memory.core.forks import Forks
from services.memory.domain import Ending, Lifetimes, Message, Order, Request, Role, Session

USER = "memory"
LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=12)
LEASE_MS = 10_000


class Memory:
    """Sessions and their forks over one store."""

    def __init__(self, sessions: Any, forks: Any, redis: Redis | None = None) -> None:
        self.sessions, self.store, self.redis = sessions, forks, redis
        self.forks = Forks(forks)

    async def make(self, principal: Principal) -> str:
        return (await self.sessions.create(principal, uuid.uuid4().hex, "aura", None)).session_id

    async def begin(self, principal: Principal, session_id: str) -> Ending:
        turn = await self.sessions.begin(principal, session_id, None, LEASE_MS, 20, Order(b"asked"))
        return Ending(turn.run, turn.token, 1, [b"over"])

    async def say(self, principal: Principal, session_id: str, *texts: str) -> int:
        """One whole run that says this; nothing: it is abandoned."""
        ending = await self.begin(principal, session_id)
        run_id = write_run_id(session_id, ending.run)
        messages = [message(text, run_id, Role.USER if i == 0 else Role.TOOL) for i, text in enumerate(texts)]
        await self.sessions.end(principal, session_id, Ending(ending.run, ending.token, 1, [b"over"], messages))
        return ending.run

    async def texts(self, principal: Principal, session_id: str) -> list[str]:
        return [text_of(each) for each in await self.sessions.history(principal, session_id, 100)]

    async def copy(self, principal: Principal, session_id: str, run: int = 0, request_id: str = "") -> Session:
        return await self.forks.copy(principal, session_id, run, request_id)


@pytest.fixture(params=["memory", "one", "cluster"])
def memory(request: pytest.FixtureRequest, one: Redis, cluster: Redis) -> Memory:
    if request.param == "memory":
        store = InMemorySessionStore(LIFETIMES)
        return Memory(store, store)
    redis = one if request.param == "one" else cluster
    return Memory(RedisSessionStore(redis, LIFETIMES), RedisForkStore(redis, LIFETIMES), redis)


@pytest.fixture
def alice() -> Principal:
    return Principal(f"tenant-{uuid.uuid4().hex}", "alice")


def message(text: str, run_id: str, role: Role = Role.USER) -> Message:
    return read_message(common_pb2.Message(role=int(role), content=text, run_id=run_id))  # type: ignore[arg-type]


def text_of(kept: Message) -> str:
    return common_pb2.Message.FromString(kept.data).content


async def test_what_is_not_there_or_anothers_is_not_found(memory: Memory, alice: Principal) -> None:
    session_id = await memory.make(alice)
    await memory.say(alice, session_id, "secret")
    for who, what in ((alice, "none"), (Principal(alice.tenant, "bob"), session_id), (Principal("x", "alice"), "none")):
        for run in (0, 1, 7):
            with pytest.raises(SessionNotFound) as refused:
                await memory.copy(who, what, run, "r1")
            assert (refused.value.message, refused.value.retry_after) == ("no such session", None)
    assert len((await memory.sessions.page(alice, None, 9)).sessions) == 1
    assert (await memory.sessions.page(Principal(alice.tenant, "bob"), None, 9)).sessions == []


@pytest.mark.parametrize("run", [1, 3, 999_999_999])
async def test_a_run_that_was_never_begun_is_not_found(memory: Memory, alice: Principal, run: int) -> None:
    session_id = await memory.make(alice)
    with pytest.raises(RunNotFound):
        await memory.copy(alice, session_id)
    with pytest.raises(RunNotFound):
        await memory.copy(alice, session_id, run)


async def test_a_run_at_work_or_in_the_line_is_not_found_and_those_before_are(memory: Memory, alice: Principal) -> None:
    session_id = await memory.make(alice)
    await memory.say(alice, session_id, "one")
    await memory.begin(alice, session_id)
    await memory.sessions.begin(alice, session_id, None, LEASE_MS, 20, Order(b"asked"))
    for run in (2, 3):
        with pytest.raises(RunNotFound):
            await memory.copy(alice, session_id, run)
    for run in (0, 1):
        copy = await memory.copy(alice, session_id, run)
        assert await memory.texts(alice, copy.session_id) == ["one"]


async def test_a_copy_has_the_history_up_to_and_including_the_run(memory: Memory, alice: Principal) -> None:
    session_id = await memory.make(alice)
    await memory.say(alice, session_id, "one", "tool one")
    await memory.say(alice, session_id)
    await memory.say(alice, session_id, "three", "tool three")
    expected = {1: ["one", "tool one"], 2: ["one", "tool one"], 3: ["one", "tool one", "three", "tool three"]}
    for run, texts in (expected | {0: expected[3]}).items():
        copy = await memory.copy(alice, session_id, run)
        assert await memory.texts(alice, copy.session_id) == texts
        assert (copy.agent, copy.run_count) == ("aura", 0)
        assert copy == await memory.sessions.get(alice, copy.session_id)
    assert len((await memory.sessions.page(alice, None, 9)).sessions) == 5


async def test_nothing_is_shared_afterwards(memory: Memory, alice: Principal) -> None:
    source = await memory.make(alice)
    await memory.say(alice, source, "one")
    copy = (await memory.copy(alice, source)).session_id
    assert await memory.say(alice, source, "in the source") == 2
    assert await memory.say(alice, copy, "in the copy") == 1
    assert await memory.texts(alice, source) == ["one", "in the source"]
    assert await memory.texts(alice, copy) == ["one", "in the copy"]
    await memory.sessions.delete(alice, source)
    assert await memory.texts(alice, copy) == ["one", "in the copy"]
    with pytest.raises(SessionNotFound):
        await memory.texts(alice, source)
    again = (await memory.copy(alice, copy)).session_id
    await memory.sessions.delete(alice, copy)
    assert await memory.texts(alice, again) == ["one", "in the copy"]


async def test_a_copy_of_a_copy_counts_only_its_own_runs(memory: Memory, alice: Principal) -> None:
    source = await memory.make(alice)
    for text in ("one", "two", "three"):
        await memory.say(alice, source, text)
    copy = (await memory.copy(alice, source)).session_id
    with pytest.raises(RunNotFound):
        await memory.copy(alice, copy, 2)
    await memory.say(alice, copy, "four")
    await memory.say(alice, copy, "five")
    again = (await memory.copy(alice, copy, 1)).session_id
    assert await memory.texts(alice, again) == ["one", "two", "three", "four"]


async def test_a_run_whose_messages_were_trimmed_is_not_found(memory: Memory, alice: Principal) -> None:
    session_id = await memory.make(alice)
    for run in range(1, 6):
        await memory.say(alice, session_id, f"{run}", f"tool {run}", f"answer {run}")
    with pytest.raises(RunNotFound):
        await memory.copy(alice, session_id, 1)
    copy = await memory.copy(alice, session_id, 2)
    assert await memory.texts(alice, copy.session_id) == ["2", "tool 2", "answer 2"]
    await memory.say(alice, session_id, "6")  # now the second begins in its middle
    with pytest.raises(RunNotFound):
        await memory.copy(alice, session_id, 2)
    assert len(await memory.texts(alice, (await memory.copy(alice, session_id)).session_id)) == 12


async def test_a_repeated_request_makes_one_copy(memory: Memory, alice: Principal) -> None:
    source = await memory.make(alice)
    await memory.say(alice, source, "one")
    await memory.say(alice, source, "two")
    made = await asyncio.gather(*(memory.copy(alice, source, 1, "r1") for _ in range(8)))
    assert len({session.session_id for session in made}) == 1
    with pytest.raises(RequestIdReused):
        await memory.copy(alice, source, 2, "r1")
    with pytest.raises(RequestIdReused):
        await memory.copy(alice, "another", 1, "r1")
    assert (await memory.copy(alice, source, 1, "r2")).session_id != made[0].session_id
    await memory.say(alice, made[0].session_id, "more")
    await memory.sessions.delete(alice, source)
    again = await memory.copy(alice, source, 1, "r1")
    assert again.session_id == made[0].session_id
    assert await memory.texts(alice, again.session_id) == ["one", "more"]


async def test_a_copy_and_a_session_made_by_the_same_request_id_are_two(memory: Memory, alice: Principal) -> None:
    source = await memory.make(alice)
    await memory.say(alice, source, "one")
    request = Request("r1", b"digest")
    made = await memory.sessions.create(alice, uuid.uuid4().hex, "aura", request)
    copy = await memory.copy(alice, source, 1, "r1")
    assert copy.session_id != made.session_id
    await memory.sessions.delete(alice, copy.session_id)
    assert (await memory.sessions.create(alice, uuid.uuid4().hex, "aura", request)).session_id == made.session_id
    assert (await memory.copy(alice, source, 1, "r1")).session_id != copy.session_id


class Dying(Redis):
    """Dies when it is about to call one function."""

    def __init__(self, url: str, function: str) -> None:
        super().__init__(url)
        self._deadly = function

    async def call(self, function: str, keys: tuple[str, ...], *arguments: Any) -> Any:
        if function == self._deadly:
            raise StoreUnavailable("killed")
        return await super().call(function, keys, *arguments)


async def test_a_half_made_copy_is_never_listed_nor_read_and_a_repeat_completes_it(
    valkey_url: str, one: Redis, alice: Principal
) -> None:
    whole = Memory(RedisSessionStore(one, LIFETIMES), RedisForkStore(one, LIFETIMES))
    source = await whole.make(alice)
    await whole.say(alice, source, "one")
    dying = Dying(valkey_url, "session_fork")
    with pytest.raises(StoreUnavailable):
        await Forks(RedisForkStore(dying, LIFETIMES)).copy(alice, source, 1, "r1")
    await dying.close()
    names = await one.execute("ZRANGE", UserKeys(alice).sessions, 0, -1)
    (half,) = [name.decode() for name in names if name.decode() != source]
    # Even a history that was written before, which the function would not leave behind, is nobody's and is not kept.
    await one.execute("RPUSH", SessionKeys(alice, half).history, b"junk")
    assert [each.session_id for each in (await whole.sessions.page(alice, None, 9)).sessions] == [source]
    for attempt in (
        whole.sessions.get(alice, half),
        whole.sessions.history(alice, half, 9),
        whole.sessions.begin(alice, half, None, LEASE_MS, 9),
        whole.copy(alice, half),
    ):
        with pytest.raises(SessionNotFound):
            await attempt
    copy = await whole.copy(alice, source, 1, "r1")
    assert copy.session_id == half
    assert await whole.texts(alice, half) == ["one"]


async def test_control_a_copy_made_session_first_is_seen_half_made(one: Redis, alice: Principal) -> None:
    memory = Memory(RedisSessionStore(one, LIFETIMES), RedisForkStore(one, LIFETIMES))
    half = await memory.make(alice)  # and the process dies before the history is written
    assert [each.session_id for each in (await memory.sessions.page(alice, None, 9)).sessions] == [half]
    assert await memory.texts(alice, half) == []


async def test_a_copy_lives_as_long_as_a_session(one: Redis, alice: Principal) -> None:
    memory = Memory(RedisSessionStore(one, LIFETIMES), RedisForkStore(one, LIFETIMES))
    source = await memory.make(alice)
    await memory.say(alice, source, "one")
    keys = SessionKeys(alice, (await memory.copy(alice, source)).session_id)
    for key in (keys.session, keys.history):
        assert 0 < await one.execute("PTTL", key) <= LIFETIMES.session_ms
