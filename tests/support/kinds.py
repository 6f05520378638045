"""Everything that Redis keeps for us, kind by kind, as the services write it: what docs/durability.md speaks of."""

import asyncio
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.kit.amounts import Amounts
from services.kit.call import Principal
from services.kit.errors import NotFound, Unavailable
from services.kit.keys import OwnerKeys, SessionKeys
from services.kit.queue import Item
from services.kit.queue_redis import RedisQueue
from services.kit.redis import Redis
from services.memory.adapters.redis import RedisSessionStore
from services.memory.adapters.redis_agents import RedisAgentStore
from services.memory.adapters.redis_budgets import RedisBudgets
from services.memory.domain import Budget, Ending, Lifetimes, Message, Order, Reserving, Role, Scope, Whose
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.adapters.redis_dead_letters import RedisDeadLetters
from services.orchestrator.adapters.redis_events import RedisEvents
from services.orchestrator.adapters.redis_owners import RedisOwners
from services.orchestrator.domain.events import DomainEvent
from services.orchestrator.domain.run import DeadLetter, Record, Standing, Turn, Waiting
from services.toolexec.adapters.redis import RedisResultStore
from services.toolexec.domain import Begun, CallKey, Finished, Outcome

HOUR_MS = 3_600_000
SPENT = Amounts(7, 0, 0, 0)
RESERVED = 100
EARLY_S = 60.0


@dataclass(frozen=True)
class Kind:
    """One kind of data."""

    write: Callable[["Writing", str], Awaitable[None]]
    """Writes one of it under a name; returns when the store has acknowledged it."""
    is_there: Callable[["Writing", str], Awaitable[bool]]


class Writing:
    """The services' adapters on one store."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.sessions = RedisSessionStore(redis, Lifetimes(HOUR_MS, HOUR_MS, 100))
        self.log = RedisRunLog(redis, 3600.0, 3600.0)
        self.queue = RedisQueue(redis, "consumer")
        self.results = RedisResultStore(redis)
        self.agents = RedisAgentStore(redis, revisions_kept=5, agents_allowed=1_000_000)
        self.budgets = RedisBudgets(redis, Reserving(Amounts(RESERVED, 0, 0, 0), HOUR_MS, HOUR_MS))
        self.events = RedisEvents(redis)
        self.letters = RedisDeadLetters(redis)

    async def begin(self, name: str) -> tuple[Principal, Turn]:
        """A run at work in a session of that name."""
        alice = principal(name)
        await self.sessions.create(alice, name, "aura", None)
        turn = await self.sessions.begin(alice, name, None, HOUR_MS, 5, Order(record=b"asked"))
        return alice, Turn(f"{name}.{turn.run}", turn.token, False, "aura", ())


def principal(name: str) -> Principal:
    return Principal(f"tenant-{name}", "alice")


async def write_session(writing: Writing, name: str) -> None:
    await writing.sessions.create(principal(name), name, "aura", None)


async def session_is_there(writing: Writing, name: str) -> bool:
    return (await writing.sessions.get(principal(name), name)).agent == "aura"


async def session_is_listed(writing: Writing, name: str) -> bool:
    page = await writing.sessions.page(principal(name), None, 5)
    return [session.session_id for session in page.sessions] == [name]


async def write_history(writing: Writing, name: str) -> None:
    alice, turn = await writing.begin(name)
    message = Message(Role.USER, 2, b"\x08\x02\x12\x02hi")
    await writing.sessions.end(alice, name, Ending(1, turn.fencing_token, 1, [b"over"], [message]))


async def history_is_there(writing: Writing, name: str) -> bool:
    page = await writing.log.read(principal(name), f"{name}.1", 0, 10)
    return len(await writing.sessions.history(principal(name), name, 5)) == 1 and page.entries == (b"over",)


async def write_run(writing: Writing, name: str) -> None:
    await writing.begin(name)


async def run_is_there(writing: Writing, name: str) -> bool:
    return bool(await writing.redis.execute("HGET", SessionKeys(principal(name), name).work, "record") == b"asked")


async def write_waiting_run(writing: Writing, name: str) -> None:
    alice = principal(name)
    await writing.sessions.create(alice, name, "aura", None)
    await writing.sessions.begin(alice, name, None, HOUR_MS, 5, Order(record=b"asked", defer=True))
    assert await writing.log.announce(alice, f"{name}.1", [b"started", b"queued"])


async def waiting_run_is_there(writing: Writing, name: str) -> bool:
    page = await writing.log.read(principal(name), f"{name}.1", 0, 10)
    record = await writing.redis.execute("HGET", SessionKeys(principal(name), name).records, 1)
    return (page.standing, page.entries, record) == (Standing.QUEUED, (b"started", b"queued"), b"asked")


async def lease_is_there(writing: Writing, name: str) -> bool:
    return bool(await writing.redis.execute("PTTL", SessionKeys(principal(name), name).lease) > 0)


async def write_entry(writing: Writing, name: str) -> None:
    alice, turn = await writing.begin(name)
    await writing.log.append(alice, turn, 1, [b"one", b"two"], b"so far")


async def entry_is_there(writing: Writing, name: str) -> bool:
    return (await writing.log.read(principal(name), f"{name}.1", 0, 10)).entries == (b"one", b"two")


async def checkpoint_is_there(writing: Writing, name: str) -> bool:
    keys = SessionKeys(principal(name), name)
    return bool(await writing.redis.execute("HGET", keys.work, "checkpoint") == b"so far")


async def write_item(writing: Writing, name: str) -> None:
    await writing.queue.put(f"Q-{name}", [Item(name, f"tenant-{name}", b"look")])


async def item_is_there(writing: Writing, name: str) -> bool:
    return (await writing.queue.stats(f"Q-{name}")).waiting == 1


async def write_result(writing: Writing, name: str) -> None:
    key = CallKey(f"{name}.1", "look", "key")
    begun = await writing.results.begin(principal(name), key, 60.0)
    assert isinstance(begun, Begun)
    await writing.results.finish(principal(name), key, begun.ticket, Outcome("{}", False, 0.1), 3600.0)


async def result_is_there(writing: Writing, name: str) -> bool:
    found = await writing.results.begin(principal(name), CallKey(f"{name}.1", "look", "key"), 60.0)
    return isinstance(found, Finished)


async def write_approval(writing: Writing, name: str) -> None:
    alice, turn = await writing.begin(name)
    token = hashlib.sha256(name.encode()).hexdigest()
    waiting = Waiting("answer", 3600.0, "SIMPLE", token, b'{"run": 1, "state": "open"}')
    await writing.log.park(alice, turn, 1, [b"asks"], b"so far", waiting)


async def approval_is_there(writing: Writing, name: str) -> bool:
    keys = SessionKeys(principal(name), name)
    token = hashlib.sha256(name.encode()).hexdigest()
    return await writing.redis.execute("HGET", keys.approvals, token) is not None


async def write_answer(writing: Writing, name: str) -> None:
    await write_approval(writing, name)
    token = hashlib.sha256(name.encode()).hexdigest()
    await writing.log.respond(principal(name), f"{name}.1", token, "approved", b"yes", any_user=False)


async def answer_is_there(writing: Writing, name: str) -> bool:
    keys = SessionKeys(principal(name), name)
    token = hashlib.sha256(name.encode()).hexdigest()
    kept = json.loads(await writing.redis.execute("HGET", keys.approvals, token) or b"{}")
    response = await writing.redis.execute("HGET", keys.work, "response")
    return (kept.get("state"), response) == ("approved", b"yes")


async def write_reservation(writing: Writing, name: str) -> None:
    alice = principal(name)
    await writing.budgets.set(alice, Whose(Scope.TENANT), Budget(Amounts(tokens=1000)))
    await writing.budgets.reserve(alice, name, strict=False)


async def reservation_is_there(writing: Writing, name: str) -> bool:
    found = await writing.budgets.get(principal(name), Whose(Scope.TENANT))
    return found.reserved.tokens == RESERVED


async def write_spending(writing: Writing, name: str) -> None:
    await writing.budgets.reserve(principal(name), name, strict=False)
    await writing.budgets.settle(principal(name), name, SPENT)


async def spending_is_there(writing: Writing, name: str) -> bool:
    found = await writing.budgets.get(principal(name), Whose(Scope.TENANT))
    return found.spent.tokens == SPENT.tokens


async def write_letter(writing: Writing, name: str) -> None:
    letter = DeadLetter(
        f"{name}.1", "alice", Record("hi", "aura", 1, ()), 3, Unavailable("away"), int(time.time() * 1000)
    )
    await writing.letters.put(principal(name), letter)


async def letter_is_there(writing: Writing, name: str) -> bool:
    return (await writing.letters.get(principal(name), f"{name}.1")).attempts == 3


async def write_event(writing: Writing, name: str) -> None:
    await writing.events.publish([DomainEvent(f"tenant-{name}", name, "run.started", 1, "alice", "s", "s.1", {})])


async def event_is_there(writing: Writing, name: str) -> bool:
    return len(await writing.events.read(f"tenant-{name}", "0-0", 10)) == 1


async def write_agent(writing: Writing, name: str) -> None:
    await writing.agents.put(principal(name), "aura", b"digest", b"content")


async def agent_is_there(writing: Writing, name: str) -> bool:
    return (await writing.agents.get(principal(name), "aura", 1)).content == b"content"


def owners_of(writing: Writing, name: str) -> RedisOwners:
    """Of a process of that name."""
    owners = RedisOwners(writing.redis, 60.0)
    owners._me, owners._mine = name, OwnerKeys.sessions(name)
    return owners


async def write_owner(writing: Writing, name: str) -> None:
    await owners_of(writing, name).hold(principal(name), name)


async def owner_is_there(writing: Writing, name: str) -> bool:
    return (principal(name), name) in await owners_of(writing, name).mine()


KINDS = {
    "session": Kind(write_session, session_is_there),
    "place in the list": Kind(write_session, session_is_listed),
    "history": Kind(write_history, history_is_there),
    "run": Kind(write_run, run_is_there),
    "run in the line": Kind(write_waiting_run, waiting_run_is_there),
    "lease": Kind(write_run, lease_is_there),
    "log entry": Kind(write_entry, entry_is_there),
    "checkpoint": Kind(write_entry, checkpoint_is_there),
    "owner": Kind(write_owner, owner_is_there),
    "queue entry": Kind(write_item, item_is_there),
    "tool result": Kind(write_result, result_is_there),
    "approval": Kind(write_approval, approval_is_there),
    "answer": Kind(write_answer, answer_is_there),
    "reservation": Kind(write_reservation, reservation_is_there),
    "spending": Kind(write_spending, spending_is_there),
    "dead letter": Kind(write_letter, letter_is_there),
    "event": Kind(write_event, event_is_there),
    "agent": Kind(write_agent, agent_is_there),
}


async def write_all(url: str, acknowledge: Callable[[str, str], None], *, early: bool) -> None:
    """Writes all kinds over and over; says of each (kind, name) that the store has acknowledged it, or `early`."""
    writing = Writing(Redis(url))

    async def write(kind: str) -> None:
        for number in itertools.count():
            name = f"{os.getpid()}-{number}-{kind.replace(' ', '-')}"
            if early:
                acknowledge(kind, name)
                await asyncio.sleep(EARLY_S)
            await KINDS[kind].write(writing, name)
            if not early:
                acknowledge(kind, name)

    await asyncio.gather(*map(write, KINDS))


async def missing(writing: Writing, written: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Which of these (kind, name) are not there."""
    gone = []
    for kind, name in written:
        try:
            there = await KINDS[kind].is_there(writing, name)
        except NotFound:
            there = False
        if not there:
            gone.append((kind, name))
    return gone


def main(url: str, when: str) -> None:
    """A process that writes all kinds, and prints each once it is acknowledged, or `early`, until it is killed."""
    asyncio.run(write_all(url, lambda kind, name: print(f"{kind}\t{name}", flush=True), early=when == "early"))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
