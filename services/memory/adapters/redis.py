"""Sessions in Redis, by the functions of `kit/lua/`, which say who may and when."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal
from services.kit.errors import RequestIdReused, RunNotFound, ServiceError, SessionBusy
from services.kit.keys import SessionKeys, UserKeys
from services.kit.redis import Redis
from services.kit.redis_connections import Command
from services.kit.users import user_text
from services.memory.adapters.redis_accounts import RedisAccounts, left_of, new_reservation
from services.memory.adapters.redis_budgets import grant
from services.memory.adapters.redis_index import SessionIndex, session_of
from services.memory.adapters.redis_turns import TurnCommands, turn_keys
from services.memory.codec import parse_message
from services.memory.domain import (
    Cursor,
    Ending,
    Grant,
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

_KEYS_AT_ONCE = 500
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
        self._commands = TurnCommands(redis, lifetimes)

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
        """As `SessionStore.delete`. What a crash leaves behind of its runs is out of reach, and expires in a day."""
        keys, user = SessionKeys(principal, session_id), UserKeys(principal)
        if self._accounts:
            await self._accounts.replay_all(principal, session_id)
        runs, request_id, effects, requests = await self._redis.call(
            "session_delete",
            (*turn_keys(keys), keys.approvals, keys.effects),
            user_text(principal.user),
        )
        await self._redis.execute("ZREM", user.sessions, session_id)
        made = [user.created(request_id.decode())] if request_id else []
        await self._unlink(chain(made, (user.begun(each.decode()) for each in requests)))
        numbers = range(1, runs + 1)
        await self._unlink(chain(map(keys.log, numbers), map(keys.callback, numbers), effects))

    async def _unlink(self, keys: Iterator[str | bytes]) -> None:
        """Deletes keys of one tag."""
        while names := tuple(islice(keys, _KEYS_AT_ONCE)):
            await self._redis.execute("UNLINK", *names)

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
        """As `SessionStore.begin`. What is in other tags has commands of its own, sent along."""
        reservation = new_reservation() if self._accounts and not order.defer else ""
        ahead = self._accounts.clearing(SessionKeys(principal, session_id).outbox) if self._accounts else ()
        begin = self._commands.begin(principal, session_id, request, order, lease_ms, max_messages, reservation)
        along = self._along(principal, session_id, request, reservation, order.wanted)
        begun, *others = (await self._redis.replies([*ahead, begin, *along]))[len(ahead) :]
        try:
            return await self._begun(principal, session_id, request, begun, reservation, others)
        except (
            RequestIdReused
        ):  # the id stays taken: another call has begun a run under it, whoever of the two claimed it
            raise
        except ServiceError:
            if request and _is_new(others[0]):
                await self._index.free(principal, request)
            raise

    async def _begun(
        self,
        principal: Principal,
        session_id: str,
        request: Request | None,
        begun: Any,
        reservation: str,
        others: Sequence[Any],
    ) -> Turn:
        """The turn, from what all tags replied. Where another of them refuses it, it is taken back."""
        refused = isinstance(begun, BaseException)
        if self._accounts and (refused or begun[0]):
            await self._accounts.give_back(principal, reservation)
        if refused:
            raise begun
        state, run, token, agent, history, position, left, outbox = begun
        undo = partial(self._commands.undo, principal, session_id, run, token, request)
        if isinstance(others[0], RequestIdReused):
            if state != _ATTACHED:  # else whoever began it was cut before it could be taken back
                await self._take_back(principal, undo, "" if state else reservation)
            raise others[0]
        granted = replace(grant(left), amounts=NO_AMOUNTS) if state else grant(left)
        if not reservation:
            _raise_first(others[:1])
            granted = replace(granted, left=left_of((left, *others[1:])))
        elif self._accounts and not state:
            self._accounts.replay(principal, session_id, outbox)
            granted = await self._accounts.begun(principal, reservation, left, others, undo)
            self._accounts.opened(principal, session_id, token, reservation)
        messages = [parse_message(data) for data in history]
        turn = Turn(run, token, state == _ATTACHED, agent.decode(), messages, state == _QUEUED, position)
        return replace(turn, granted=granted.amounts, renews_ms=granted.renews_ms, left=granted.left)

    async def _take_back(self, principal: Principal, undo: Callable[[], Command], reservation: str) -> None:
        """Takes the beginning of a turn back. Where that cannot be, the run goes on, and nobody watches it."""
        if self._accounts:
            await self._accounts.give_back(principal, reservation)
        with contextlib.suppress(ServiceError):
            await self._redis.execute(*undo())

    async def resume(
        self, principal: Principal, session_id: str, lease_ms: int, max_messages: int, run: int = 0
    ) -> Resumed:
        """As `SessionStore.resume`."""
        keys = SessionKeys(principal, session_id)
        reservation = new_reservation() if self._accounts else ""
        resume = self._commands.resume(principal, session_id, lease_ms, max_messages, run, reservation)
        try:
            found = await self._redis.execute(*resume)
        except (RunNotFound, SessionBusy):
            if self._accounts:  # a run that waits has put there what it has spent
                await self._accounts.replay_all(principal, session_id)
            raise
        number, token, agent, record, checkpoint, attempts, response, history, left, outbox, before, counted = found
        granted = grant(left)
        if self._accounts:
            account = (left, outbox, before.decode(), Amounts(*counted))
            try:
                granted = await self._accounts.resumed(principal, session_id, reservation, *account)
            except ServiceError:
                await self._let_go(keys, number, token)
                raise
            self._accounts.opened(principal, session_id, token, reservation, Amounts(*counted))
        turn = Turn(number, token, False, agent.decode(), [parse_message(data) for data in history])
        turn = replace(turn, granted=granted.amounts, renews_ms=granted.renews_ms, left=granted.left)
        return Resumed(turn, record, checkpoint, attempts, response)

    async def _let_go(self, keys: SessionKeys, run: int, token: int) -> None:
        """Holds a session no longer in which nothing was done, which counts as no owner that was lost."""
        names = (keys.session, keys.lease, keys.log(run), keys.work)
        with contextlib.suppress(ServiceError):
            await self._redis.call("run_append", names, run, token, 0, self._lifetimes.log_ms, -1, b"")

    async def extend(self, principal: Principal, session_id: str, run: int, token: int, wanted: Amounts) -> Grant:
        """As `SessionStore.extend`."""
        keys = (SessionKeys(principal, session_id).session,)
        reservation, left, counted = await self._redis.call(
            "turn_reserved", keys, user_text(principal.user), run, token
        )
        if not self._accounts:
            return grant(left).after(Amounts(*counted))
        account = (left, wanted, Amounts(*counted))
        return await self._accounts.extended(principal, reservation.decode(), *account)

    async def end(self, principal: Principal, session_id: str, ending: Ending) -> Next | None:
        """As `SessionStore.end`."""
        end = self._commands.end(principal, session_id, ending)
        accounts = self._accounts
        along = accounts.ending(principal, session_id, ending.token, ending.spent) if accounts else ()
        ended, *settled = await self._redis.replies([end, *along])
        if isinstance(ended, BaseException):
            raise ended
        unsettled, *due = ended
        if accounts:
            await accounts.ended(principal, session_id, ending.run, unsettled, settled)
        return Next(*due) if due else None

    def _along(
        self, principal: Principal, session_id: str, request: Request | None, reservation: str, wanted: Amounts
    ) -> tuple[Command, ...]:
        """What goes with the beginning of a turn to other tags; the first is of the user's."""
        keys, touch = self._index.touching(principal, session_id, request)
        if self._accounts and reservation:
            return self._accounts.beginning(principal, keys, touch, reservation, wanted)
        touching = self._redis.function("session_touch", keys, *touch)
        return (touching, *self._accounts.reading(principal)) if self._accounts else (touching,)


def _is_new(touched: Any) -> bool:
    """Whether `session_touch`, or `budget_touch`, says of a request that it came for the first time."""
    return bool(touched[0] if isinstance(touched, list) else touched == 1)


def _raise_first(replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
