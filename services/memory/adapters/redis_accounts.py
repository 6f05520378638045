"""What a turn's beginning and end mean to budgets that are in other tags than its session."""

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from services.kit.amounts import NO_AMOUNTS, ZERO, Amounts
from services.kit.call import Principal
from services.kit.errors import BudgetExhausted, ServiceError
from services.kit.keys import SessionKeys, TenantKeys, UserKeys
from services.kit.redis import Redis
from services.kit.redis_connections import Command
from services.memory.adapters.redis_budgets import Argument, RedisBudgets, amounts, budget_keys, grant, state_of
from services.memory.adapters.redis_settling import Settling, returned, written
from services.memory.core.budgets import least
from services.memory.domain import Grant

_RESERVATION_BYTES = 12
_MOST_OPEN = 20_000
_GIVE_BACK_S = 0.2
_SETTLE_S = 1.0


def new_reservation() -> str:
    """A name that no other reservation has."""
    return secrets.token_urlsafe(_RESERVATION_BYTES)


def left_of(replies: Sequence[Any]) -> Amounts:
    """What budgets have left, as far as it is known: by what a session's has, and by replies to `reading`."""
    left, *states = replies
    found = [state_of(each).remaining for each in states if not isinstance(each, BaseException)]
    return least([grant(left), *(Grant(each, left=each) for each in found)]).left


class RedisAccounts:
    """Reserves when a turn begins or is resumed, and settles when it has ended."""

    def __init__(self, redis: Redis, budgets: RedisBudgets) -> None:
        """Uses `redis`, which its opener closes after this."""
        self._redis = redis
        self._budgets = budgets
        self._settling = Settling(redis, budgets)
        self._open: OrderedDict[tuple[str, str, str, int], tuple[str, Amounts]] = OrderedDict()

    def beginning(
        self,
        principal: Principal,
        index: tuple[str, ...],
        touch: tuple[Argument, ...],
        reservation: str,
        wanted: Amounts,
    ) -> tuple[Command, ...]:
        """What is sent along with the beginning of a turn. As `RedisBudgets.beginning`."""
        return self._budgets.beginning(principal, index, touch, reservation, wanted)

    def reading(self, principal: Principal) -> tuple[Command, ...]:
        """Reads the user's and the tenant's budget."""
        return self._budgets.reading(principal)

    def clearing(self, outbox: str) -> tuple[Command, ...]:
        """What is sent ahead of the beginning of a turn: its session's outbox need not show what was settled here."""
        return self._settling.clearing(outbox)

    async def begun(
        self,
        principal: Principal,
        reservation: str,
        left: Sequence[bytes],
        replies: Sequence[Any],
        undo: Callable[[], Command],
    ) -> Grant:
        """What a turn that has begun may spend.

        Args:
            principal: Whose turn.
            reservation: Its name.
            left: What the session's budget has left.
            replies: To `beginning`.
            undo: Takes the beginning back, if nobody waits for the turn to end.

        Raises:
            BudgetExhausted: it may not spend anything, and its beginning was taken back.
        """
        refused = next((reply for reply in replies if isinstance(reply, BaseException)), None)
        if refused is None:
            (_, users), tenants = replies
            return least(map(grant, (left, users, tenants)))
        await self.give_back(principal, reservation)
        undone = False
        with contextlib.suppress(ServiceError):
            undone = bool(await self._redis.execute(*undo()))
        if undone or not isinstance(refused, BudgetExhausted):
            raise refused
        return Grant(ZERO, left=ZERO)

    async def resumed(
        self,
        principal: Principal,
        session_id: str,
        reservation: str,
        left: Sequence[bytes],
        outbox: Sequence[bytes],
        replaced: str,
        counted: Amounts,
    ) -> Grant:
        """What a turn that is gone on with may spend in all; perhaps no more than it has.

        Args:
            principal: Whose turn.
            session_id: Of which session.
            reservation: Its new name.
            left: What the session's budget has left.
            outbox: What its session has not told yet; it is settled first, to be no longer set apart.
            replaced: The turn's reservation before. Empty: it has none.
            counted: What of its spending was counted before.
        """
        if settling := self.replay(principal, session_id, outbox):
            await asyncio.wait(settling, timeout=_SETTLE_S)
        found = await self._budgets.reserve(principal, reservation, strict=False, replaced=replaced)
        return least((grant(left), found)).after(counted)

    async def extended(
        self, principal: Principal, reservation: str, left: Sequence[bytes], wanted: Amounts, counted: Amounts
    ) -> Grant:
        """What a turn may spend in all, once as much as there is was set apart of what it wants in all."""
        found = Grant()
        if reservation:
            rest = wanted.less(counted)
            found = await self._budgets.reserve(principal, reservation, strict=False, replaced=reservation, wanted=rest)
        return least((grant(left), found)).after(counted)

    async def give_back(self, principal: Principal, reservation: str) -> None:
        """Gives back what was reserved for a turn that did not begin; waits for that but a moment."""
        if reservation:
            await asyncio.wait([self._settling.add(returned(principal, reservation))], timeout=_GIVE_BACK_S)

    def opened(
        self, principal: Principal, session_id: str, token: int, reservation: str, counted: Amounts = NO_AMOUNTS
    ) -> None:
        """Remembers what was reserved for a turn, so that its end can be sent together with the settlement.

        `counted` is what of its spending was settled before.
        """
        self._open[principal.tenant, principal.user, session_id, token] = (reservation, counted)
        while len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)

    def ending(self, principal: Principal, session_id: str, token: int, spent: Amounts) -> tuple[Command, ...]:
        """What is sent along with the end of a turn, when this process knows what was reserved for it."""
        reservation, counted = self._open.pop((principal.tenant, principal.user, session_id, token), ("", NO_AMOUNTS))
        entry: tuple[Argument, ...] = (reservation, *amounts(spent.less(counted)))
        holders = (UserKeys(principal), TenantKeys(principal)) if reservation else ()
        return tuple(self._budgets.settling(budget_keys(each), entry) for each in holders)

    async def ended(
        self, principal: Principal, session_id: str, run: int, entry: bytes, replies: Sequence[Any]
    ) -> None:
        """Settles what the end of a turn has put into its outbox, if `ending` did not. What fails stays there."""
        if not entry:
            return
        settlement = written(principal, session_id, b"settle:%d" % run, entry)
        if replies and not any(isinstance(reply, BaseException) for reply in replies):
            self._settling.settled(settlement)
        else:
            await self._settling.add(settlement)

    def replay(self, principal: Principal, session_id: str, outbox: Sequence[bytes]) -> "list[asyncio.Future[None]]":
        """Settles, soon, what stands in a session's outbox: fields and values. They are done when it was tried."""
        pairs = zip(outbox[::2], outbox[1::2], strict=True)
        return [self._settling.add(written(principal, session_id, field, value)) for field, value in pairs]

    async def replay_all(self, principal: Principal, session_id: str) -> None:
        """Settles what stands in a session's outbox, where nothing else brings it along."""
        outbox = await self._redis.execute("HGETALL", SessionKeys(principal, session_id).outbox)
        self.replay(principal, session_id, outbox)

    async def close(self) -> None:
        """Finishes settling."""
        await self._settling.close()
