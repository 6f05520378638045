"""Sessions in Redis, by the functions of `kit/lua/`, which say who may and when."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from services.kit.call import Principal
from services.kit.errors import RunNotFound, ServiceError
from services.kit.keys import SessionKeys, UserKeys, user_text
from services.kit.redis import Redis
from services.kit.redis_connections import Command
from services.memory.adapters.redis_accounts import RedisAccounts, new_reservation
from services.memory.adapters.redis_budgets import amounts, grant
from services.memory.adapters.redis_index import SessionIndex, session_of
from services.memory.codec import parse_message
from services.memory.domain import (
    Cursor,
    Ending,
    Lifetimes,
    Message,
    Next,
    Order,
    Page,
    Request,
    Resumed,
    Session,
    Turn,
)

_LOGS_AT_ONCE = 500
_ATTACHED, _QUEUED = 1, 2
"""What `turn_begin` says of a run that has not begun by it."""


class RedisSessionStore:
    """A session, its history and its runs in the tag of the session, their index in the tag of the user."""

    def __init__(self, redis: Redis, lifetimes: Lifetimes, accounts: RedisAccounts | None = None) -> None:
        """Uses `redis`, which its opener closes. Without `accounts`, only sessions' own budgets count."""
        self._redis = redis
        self._lifetimes = lifetimes
        self._accounts = accounts
        self._index = SessionIndex(redis, lifetimes)

    async def create(self, principal: Principal, session_id: str, agent: str, request: Request | None) -> Session:
        """As `SessionStore.create`. The index comes first: a session that is made can be found."""
        session_id = await self._index.add(principal, session_id, request)
        key = SessionKeys(principal, session_id).session
        found = await self._redis.call(
            "session_create",
            (key,),
            user_text(principal.user),
            agent,
            request.request_id if request else "",
            self._lifetimes.session_ms,
        )
        return session_of(session_id, found)

    async def get(self, principal: Principal, session_id: str) -> Session:
        """As `SessionStore.get`."""
        key = SessionKeys(principal, session_id).session
        return session_of(session_id, await self._redis.call("session_get", (key,), user_text(principal.user)))

    async def page(self, principal: Principal, after: Cursor | None, limit: int) -> Page:
        """As `SessionStore.page`."""
        return await self._index.page(principal, after, limit)

    async def delete(self, principal: Principal, session_id: str) -> None:
        """As `SessionStore.delete`. Logs that a crash leaves behind are out of reach, and expire."""
        keys, user = SessionKeys(principal, session_id), UserKeys(principal)
        if self._accounts:
            await self._accounts.replay_all(principal, session_id)
        runs, request_id = await self._redis.call(
            "session_delete",
            (*_turn_keys(keys), keys.approvals),
            user_text(principal.user),
        )
        await self._redis.execute("ZREM", user.sessions, session_id)
        if request_id:
            await self._redis.execute("UNLINK", user.created(request_id.decode()))
        for first in range(1, runs + 1, _LOGS_AT_ONCE):
            logs = (keys.log(run) for run in range(first, min(first + _LOGS_AT_ONCE, runs + 1)))
            await self._redis.execute("UNLINK", *logs)

    async def history(self, principal: Principal, session_id: str, max_messages: int) -> Sequence[Message]:
        """As `SessionStore.history`."""
        keys = SessionKeys(principal, session_id)
        found = await self._redis.call(
            "session_history", (keys.session, keys.history), user_text(principal.user), max_messages
        )
        return [parse_message(data) for data in found]

    async def begin(
        self,
        principal: Principal,
        session_id: str,
        request: Request | None,
        lease_ms: int,
        max_messages: int,
        order: Order = Order(),  # noqa: B008 - frozen
    ) -> Turn:
        """As `SessionStore.begin`. Index and budgets are in other tags: they have commands of their own, sent along."""
        keys = SessionKeys(principal, session_id)
        reservation = new_reservation() if self._accounts and not order.defer else ""
        begin = self._redis.function(
            "turn_begin",
            _turn_keys(keys),
            user_text(principal.user),
            request.request_id if request else "",
            request.digest if request else b"",
            lease_ms,
            max_messages,
            self._lifetimes.session_ms,
            self._lifetimes.request_ms,
            order.record,
            order.concurrency,
            int(order.defer),
            order.due_ms,
            self._lifetimes.line_cap,
            reservation,
        )
        ahead = self._accounts.clearing(keys.outbox) if self._accounts else ()
        commands = [*ahead, begin, *self._along(principal, session_id, reservation)]
        begun, *others = (await self._redis.replies(commands))[len(ahead) :]
        if self._accounts and (isinstance(begun, BaseException) or begun[0]):
            await self._accounts.give_back(principal, reservation)
        if isinstance(begun, BaseException):
            raise begun
        state, run, token, agent, history, position, left, outbox = begun
        granted = grant(left)
        if not reservation:
            _raise_first(others)
        elif self._accounts and not state:
            self._accounts.replay(principal, session_id, outbox)
            undo = partial(self._undo, principal, session_id, run, token, request)
            granted = await self._accounts.begun(principal, reservation, left, others, undo)
            self._accounts.opened(principal, session_id, token, reservation)
        messages = [parse_message(data) for data in history]
        turn = Turn(run, token, state == _ATTACHED, agent.decode(), messages, state == _QUEUED, position)
        return replace(turn, granted=granted.amounts, renews_ms=granted.renews_ms)

    async def resume(
        self, principal: Principal, session_id: str, lease_ms: int, max_messages: int, run: int = 0
    ) -> Resumed:
        """As `SessionStore.resume`."""
        keys = SessionKeys(principal, session_id)
        reservation = new_reservation() if self._accounts else ""
        resume = self._redis.function(
            "turn_resume",
            (keys.session, keys.lease, keys.history, keys.work, keys.line, keys.records, keys.outbox),
            user_text(principal.user),
            lease_ms,
            max_messages,
            self._lifetimes.session_ms,
            run,
            reservation,
        )
        try:
            found = await self._redis.execute(*resume)
        except RunNotFound:
            if self._accounts:
                await self._accounts.replay_all(principal, session_id)
            raise
        number, token, agent, record, checkpoint, attempts, response, history, left, outbox, before = found
        granted = grant(left)
        if self._accounts:
            self._accounts.replay(principal, session_id, outbox)
            try:
                granted = await self._accounts.resumed(principal, reservation, left, before.decode())
            except ServiceError:
                await self._let_go(keys, number, token)
                raise
            self._accounts.opened(principal, session_id, token, reservation)
        turn = Turn(number, token, False, agent.decode(), [parse_message(data) for data in history])
        turn = replace(turn, granted=granted.amounts, renews_ms=granted.renews_ms)
        return Resumed(turn, record, checkpoint, attempts, response)

    async def _let_go(self, keys: SessionKeys, run: int, token: int) -> None:
        """Holds a session no longer in which nothing was done, which counts as no owner that was lost."""
        names = (keys.session, keys.lease, keys.log(run), keys.work)
        with contextlib.suppress(ServiceError):
            await self._redis.call("run_append", names, run, token, 0, self._lifetimes.log_ms, -1, b"")

    async def end(self, principal: Principal, session_id: str, ending: Ending) -> Next | None:
        """As `SessionStore.end`."""
        keys = SessionKeys(principal, session_id)
        log = keys.log(ending.run)
        end = self._redis.function(
            "turn_end",
            (keys.session, keys.lease, keys.history, log, keys.work, keys.line, keys.records, keys.outbox),
            user_text(principal.user),
            ending.run,
            ending.token,
            ending.first_sequence,
            self._lifetimes.session_ms,
            self._lifetimes.log_ms,
            self._lifetimes.history_cap,
            *amounts(ending.spent),
            len(ending.last_events),
            *ending.last_events,
            *(message.data for message in ending.messages),
        )
        accounts = self._accounts
        along = accounts.ending(principal, session_id, ending.token, ending.spent) if accounts else ()
        ended, *settled = await self._redis.replies([end, *along])
        if isinstance(ended, BaseException):
            raise ended
        unsettled, *due = ended
        if accounts:
            await accounts.ended(principal, session_id, ending.run, unsettled, settled)
        return Next(*due) if due else None

    def _along(self, principal: Principal, session_id: str, reservation: str) -> tuple[Command, ...]:
        """What goes with the beginning of a turn to other tags."""
        if self._accounts and reservation:
            return self._accounts.beginning(principal, session_id, self._index.lifetime_ms, reservation)
        sessions = UserKeys(principal).sessions
        return (self._redis.function("session_touch", (sessions,), session_id, self._index.lifetime_ms),)

    def _undo(self, principal: Principal, session_id: str, run: int, token: int, request: Request | None) -> Command:
        keys = SessionKeys(principal, session_id)
        names = (keys.session, keys.lease, keys.requests, keys.request_times, keys.work, keys.log(run), keys.line)
        request_id = request.request_id if request else ""
        return self._redis.function("turn_undo", names, user_text(principal.user), run, token, request_id)


def _raise_first(replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply


def _turn_keys(keys: SessionKeys) -> tuple[str, ...]:
    """All that the beginning of a turn may touch."""
    begun = (keys.session, keys.lease, keys.history, keys.requests, keys.request_times)
    return (*begun, keys.work, keys.line, keys.records, keys.outbox)
