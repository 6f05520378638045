"""Budgets in Redis, by the functions of `kit/lua/budgets.lua`."""

from collections.abc import Sequence
from typing import Any

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal
from services.kit.keys import SessionKeys, TenantKeys, UserKeys
from services.kit.redis import Redis
from services.kit.redis_connections import Command
from services.kit.users import user_text
from services.memory.core.budgets import least
from services.memory.domain import Budget, BudgetState, Grant, Reserving, Scope, Whose

Argument = bytes | str | int


class RedisBudgets:
    """A budget in the tag of whoever it limits: a user, or the tenant. A session's is part of the session."""

    def __init__(self, redis: Redis, reserving: Reserving) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis
        self._reserving = reserving

    async def get(self, principal: Principal, whose: Whose) -> BudgetState:
        """As `BudgetStore.get`."""
        if whose.scope is Scope.SESSION:
            return await self._of_session(principal, whose)
        return state_of(await self._redis.call("budget_get", budget_keys(_holder(principal, whose))))

    async def set(self, principal: Principal, whose: Whose, budget: Budget | None) -> BudgetState:
        """As `BudgetStore.set`."""
        limit = budget.limit if budget else NO_AMOUNTS
        if whose.scope is Scope.SESSION:
            return await self._of_session(principal, whose, *limits(limit))
        window = budget.window_ms if budget and budget.window_ms else ""
        keys = budget_keys(_holder(principal, whose))
        return state_of(await self._redis.call("budget_set", keys, self._reserving.unused_ms, *limits(limit), window))

    async def reserve(
        self,
        principal: Principal,
        reservation: str,
        *,
        strict: bool,
        replaced: str = "",
        wanted: Amounts = NO_AMOUNTS,
    ) -> Grant:
        """As `BudgetStore.reserve`."""
        arguments = self._arguments(reservation, strict, replaced, wanted)
        holders = (UserKeys(principal), TenantKeys(principal))
        replies = await self._redis.replies(
            [self._redis.function("budget_reserve", budget_keys(each), *arguments) for each in holders]
        )
        for reply in replies:
            if isinstance(reply, BaseException):
                if replaced != reservation:
                    await self.settle(principal, reservation, NO_AMOUNTS)
                raise reply
        return least(map(grant, replies))

    async def settle(self, principal: Principal, reservation: str, spent: Amounts) -> None:
        """As `BudgetStore.settle`."""
        settlement: tuple[Argument, ...] = (reservation, *amounts(spent))
        await self._redis.pipeline(
            [self.settling(budget_keys(each), settlement) for each in (UserKeys(principal), TenantKeys(principal))]
        )

    def beginning(
        self,
        principal: Principal,
        index: tuple[str, ...],
        touch: tuple[Argument, ...],
        reservation: str,
        wanted: Amounts,
    ) -> tuple[Command, Command]:
        """What goes along when a turn begins: what `SessionIndex.touching` says of the index, and both reserve."""
        arguments = self._arguments(reservation, True, "", wanted)
        user, tenant = UserKeys(principal), TenantKeys(principal)
        sessions, *begun = index
        return (
            self._redis.function("budget_touch", (sessions, *budget_keys(user), *begun), *touch, *arguments),
            self._redis.function("budget_reserve", budget_keys(tenant), *arguments),
        )

    def reading(self, principal: Principal) -> tuple[Command, ...]:
        """Reads the user's and the tenant's budget."""
        holders = (UserKeys(principal), TenantKeys(principal))
        return tuple(self._redis.function("budget_get", budget_keys(each)) for each in holders)

    def settling(self, keys: tuple[str, ...], settlements: Sequence[Argument]) -> Command:
        """Settles reservations of one budget, each given as its name and four amounts."""
        return self._redis.function("budget_settle", keys, self._reserving.unused_ms, *settlements)

    def _arguments(self, reservation: str, strict: bool, replaced: str, wanted: Amounts) -> tuple[Argument, ...]:
        terms = self._reserving
        much = amounts(terms.wants(wanted))
        return (reservation, terms.lifetime_ms, terms.unused_ms, int(strict), replaced, *much)

    async def _of_session(self, principal: Principal, whose: Whose, *limit: Argument) -> BudgetState:
        keys = (SessionKeys(principal, whose.name).session,)
        owner = user_text(whose.owner)
        return state_of(await self._redis.call("budget_of_session", keys, owner, *limit))


def budget_keys(holder: UserKeys | TenantKeys) -> tuple[str, str]:
    """The keys of a budget's functions."""
    return holder.budget, holder.reservations


def amounts(spent: Amounts) -> tuple[int, ...]:
    """Amounts as functions take them, when what is not said is 0."""
    return tuple(each or 0 for each in spent)


def limits(limit: Amounts) -> tuple[Argument, ...]:
    """Amounts as functions take them, when what is not said is not limited."""
    return tuple("" if each is None else each for each in limit)


def grant(reply: Sequence[bytes]) -> Grant:
    """What a function granted: nothing is limited; or four amounts, the end of the window, and what is left in all.

    Of a session's budget there are four amounts only: all that is left is granted.
    """
    if not reply:
        return Grant()
    granted = _amounts(reply[:4])
    return Grant(granted, int(reply[4] or 0), _amounts(reply[5:9])) if len(reply) > 4 else Grant(granted, 0, granted)


def _holder(principal: Principal, whose: Whose) -> UserKeys | TenantKeys:
    if whose.scope is Scope.USER:
        return UserKeys(Principal(principal.tenant, whose.name))
    return TenantKeys(principal)


def _amounts(found: Sequence[bytes]) -> Amounts:
    return Amounts(*(int(each) if each else None for each in found))


def state_of(found: Sequence[Any]) -> BudgetState:
    """A budget, from what the functions reply."""
    limit, spent, reserved = (_amounts(found[at : at + 4]) for at in (0, 4, 8))
    window, renews = (int(each or 0) for each in found[12:14])
    return BudgetState(Budget(limit, window) if limit else None, spent, reserved, renews)
