"""Brings what runs have spent from the outboxes of their sessions to their users' and tenants' budgets."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from services.kit.call import Principal
from services.kit.errors import ServiceError
from services.kit.keys import SessionKeys, TenantKeys, UserKeys
from services.kit.redis import Redis
from services.kit.redis_connections import Command
from services.memory.adapters.redis_budgets import Argument, RedisBudgets, budget_keys

log = structlog.get_logger(__name__)

_AT_ONCE = 200
_FORGET_S = 1.0
"""What was settled leaves its outbox so much later, or with the next settlement: many together."""
_MOST_SETTLED = 10_000


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is to be counted, and where that is written down until it is."""

    keys: tuple[tuple[str, str], ...]
    """Of each budget."""
    entry: tuple[Argument, ...]
    """Reservation and four amounts."""
    outbox: str = ""
    field: str = ""


def written(principal: Principal, session_id: str, field: bytes, value: bytes) -> Settlement:
    """The settlement that stands in a session's outbox."""
    place = (SessionKeys(principal, session_id).outbox, field.decode())
    return Settlement(_keys(principal), tuple(value.split(b":")), *place)


def returned(principal: Principal, reservation: str) -> Settlement:
    """Gives a reservation back, as nothing was spent of it."""
    return Settlement(_keys(principal), (reservation, 0, 0, 0, 0))


class Settling:
    """Settles together what comes together: the budget of a busy tenant takes one call for many runs.

    Settling again changes nothing, so an outbox is cleared without haste. What fails stays in its outbox, until someone
    goes on in its session.
    """

    def __init__(self, redis: Redis, budgets: RedisBudgets) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis
        self._budgets = budgets
        self._waiting: list[tuple[Settlement, asyncio.Future[None]]] = []
        self._settled: dict[str, list[str]] = {}
        self._task: asyncio.Task[None] | None = None
        self._company = asyncio.Event()

    def add(self, settlement: Settlement) -> "asyncio.Future[None]":
        """Settles soon. The future is done when it was tried."""
        done = asyncio.get_running_loop().create_future()
        if settlement.field in self._settled.get(settlement.outbox, ()):
            done.set_result(None)
            return done
        self._waiting.append((settlement, done))
        self._company.set()
        self._wake()
        return done

    def settled(self, settlement: Settlement) -> None:
        """Says that it is settled: it leaves its outbox, in a while."""
        if settlement.outbox and len(self._settled) < _MOST_SETTLED:
            self._settled.setdefault(settlement.outbox, []).append(settlement.field)
            self._wake()

    def clearing(self, outbox: str) -> tuple[Command, ...]:
        """Clears one outbox of what was settled: to be sent now, by the caller."""
        fields = self._settled.pop(outbox, None)
        return (("HDEL", outbox, *fields),) if fields else ()

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Finishes what was begun."""
        self._company.set()
        if self._task is not None:
            await self._task

    async def _work(self) -> None:
        while self._waiting or self._settled:
            if not self._waiting:
                await self._pause()
            self._company.clear()
            batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            try:
                await self._exchange([each for each, _ in batch])
            except Exception as error:
                log.error("not settled", runs=len(batch), exc_info=error)
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    async def _pause(self) -> None:
        """Waits for company for what is to be cleared."""
        try:
            async with asyncio.timeout(_FORGET_S):
                await self._company.wait()
        except TimeoutError:
            return

    async def _exchange(self, batch: Sequence[Settlement]) -> None:
        """One round trip: clears what was settled before, and settles a batch."""
        clearing, self._settled = self._settled, {}
        entries: dict[tuple[str, str], list[Argument]] = defaultdict(list)
        for settlement in batch:
            for keys in settlement.keys:
                entries[keys] += settlement.entry
        commands: list[Command] = [("HDEL", outbox, *fields) for outbox, fields in clearing.items()]
        commands += [self._budgets.settling(keys, each) for keys, each in entries.items()]
        try:
            replies = await self._redis.replies(commands)
        except ServiceError as error:
            log.warning("not settled", runs=len(batch), reason=error.reason)
            return
        failed = {
            keys
            for keys, reply in zip(entries, replies[len(commands) - len(entries) :], strict=True)
            if _has_failed(reply)
        }
        for settlement in batch:
            if not failed.intersection(settlement.keys):
                self.settled(settlement)


def _has_failed(reply: object) -> bool:
    if isinstance(reply, BaseException):
        log.warning("not settled", error=str(reply))
        return True
    return False


def _keys(principal: Principal) -> tuple[tuple[str, str], ...]:
    return budget_keys(UserKeys(principal)), budget_keys(TenantKeys(principal))
