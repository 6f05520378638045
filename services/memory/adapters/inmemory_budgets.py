"""Budgets in this process: for tests and for trying out. They end with it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.kit.amounts import NO_AMOUNTS, ZERO, Amounts
from services.kit.call import Principal
from services.kit.errors import BudgetExhausted, SessionNotFound
from services.memory.core.budgets import least
from services.memory.domain import Budget, BudgetState, Grant, Reserving, Scope, Whose

Owner = Callable[[Principal, str], str | None]
"""Whose a session of the principal's tenant is. None: there is none."""

_AGAIN_S = 1.0
"""When a reservation of another run may have been given back."""


@dataclass
class _Account:
    budget: Budget | None = None
    spent: Amounts = ZERO
    renews_ms: int = 0
    held: dict[str, tuple[Amounts, int]] = field(default_factory=dict)
    """What is set apart, and until when; nothing any more for those that expired."""


class InMemoryBudgets:
    """Keeps budgets as `RedisBudgets` does."""

    def __init__(self, reserving: Reserving, owner: Owner, clock: Callable[[], int] = lambda: int(time.time() * 1000)):
        """`owner` knows the sessions; `clock` gives milliseconds since 1970."""
        self._reserving = reserving
        self._owner = owner
        self._clock = clock
        self._accounts: dict[tuple[str, Scope, str], _Account] = {}

    async def get(self, principal: Principal, whose: Whose) -> BudgetState:
        """As `BudgetStore.get`."""
        self._check_owner(principal, whose)
        account = self._account(principal, whose)
        reserved = [amounts for amounts, _ in account.held.values()]
        total = Amounts(*(sum(column) for column in zip(*_numbers(reserved), strict=True))) if reserved else ZERO
        return BudgetState(account.budget, account.spent, total, account.renews_ms)

    async def set(self, principal: Principal, whose: Whose, budget: Budget | None) -> BudgetState:
        """As `BudgetStore.set`."""
        self._check_owner(principal, whose)
        account = self._account(principal, whose)
        if account.renews_ms and account.budget:
            began = account.renews_ms - account.budget.window_ms
            account.renews_ms = began + budget.window_ms if budget and budget.window_ms else 0
        account.budget = budget
        return await self.get(principal, whose)

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
        accounts = [self._account(principal, whose) for whose in _shared(principal)]
        for account in accounts:
            account.held.pop(replaced, None)
        if strict:
            for account in accounts:
                self._check_left(account)
        much = self._reserving.wants(wanted)
        return least([self._reserve(account, reservation, much) for account in accounts])

    async def settle(self, principal: Principal, reservation: str, spent: Amounts) -> None:
        """As `BudgetStore.settle`."""
        for whose in _shared(principal):
            account = self._account(principal, whose)
            if account.held.pop(reservation, None) is not None:
                self._use(account)
                account.spent = _sum(account.spent, spent)

    async def spend_of_session(self, principal: Principal, session_id: str, spent: Amounts) -> None:
        """Counts what a run of a session has spent, when it ends."""
        account = self._account(principal, Whose(Scope.SESSION, session_id))
        account.spent = _sum(account.spent, spent)

    async def left(self, principal: Principal, session_id: str) -> Amounts:
        """What all budgets of a session's runs have left."""
        found = [(await self.get(principal, whose)).remaining for whose in _shared(principal)]
        return least(
            [await self.left_of_session(principal, session_id), *(Grant(each, left=each) for each in found)]
        ).left

    async def left_of_session(self, principal: Principal, session_id: str) -> Grant:
        """What a run of a session may spend by the session's own budget."""
        account = self._account(principal, Whose(Scope.SESSION, session_id))
        left = account.budget.limit.less(account.spent) if account.budget else NO_AMOUNTS
        return Grant(left, left=left)

    def _reserve(self, account: _Account, reservation: str, wanted: Amounts) -> Grant:
        granted = all_left = NO_AMOUNTS
        if account.budget and account.budget.limit:
            all_left = self._left(account)
            pairs = zip(all_left, wanted, strict=True)
            granted = Amounts(*(None if left is None else min(left, each or 0) for left, each in pairs))
            self._use(account)
        account.held[reservation] = (granted, self._clock() + self._reserving.lifetime_ms)
        return Grant(granted, account.renews_ms if granted else 0, all_left)

    def _check_left(self, account: _Account) -> None:
        if account.budget and 0 in self._left(account):
            gone = 0 in account.budget.limit.less(account.spent)
            wait_s = (account.renews_ms - self._clock()) / 1000 if account.renews_ms else None
            raise BudgetExhausted("nothing is left of the budget", retry_after=wait_s if gone else _AGAIN_S)

    def _left(self, account: _Account) -> Amounts:
        assert account.budget is not None
        left = account.budget.limit.less(account.spent)
        for amounts, _ in account.held.values():
            left = left.less(amounts)
        return left

    def _use(self, account: _Account) -> None:
        if account.budget and account.budget.window_ms and not account.renews_ms:
            account.renews_ms = self._clock() + account.budget.window_ms

    def _account(self, principal: Principal, whose: Whose) -> _Account:
        account = self._accounts.setdefault((principal.tenant, whose.scope, whose.name), _Account())
        now = self._clock()
        if account.renews_ms and account.renews_ms <= now:
            account.renews_ms, account.spent = 0, ZERO
        for name, (_, until) in account.held.items():
            if until <= now:
                account.held[name] = (NO_AMOUNTS, until)
        return account

    def _check_owner(self, principal: Principal, whose: Whose) -> None:
        owner = self._owner(principal, whose.name) if whose.scope is Scope.SESSION else ""
        if owner is None or (whose.scope is Scope.SESSION and whose.owner not in ("", owner)):
            raise SessionNotFound("no such session")


def _shared(principal: Principal) -> tuple[Whose, Whose]:
    return Whose(Scope.USER, principal.user), Whose(Scope.TENANT)


def _numbers(many: list[Amounts]) -> list[list[int]]:
    return [[each or 0 for each in amounts] for amounts in many]


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return Amounts(*(sum(pair) for pair in zip(*_numbers([one, other]), strict=True)))
