"""Budgets: who may read which, and what several grant together."""

from collections.abc import Iterable

from services.kit.amounts import Amounts
from services.kit.call import Principal
from services.kit.errors import InvalidArgument, RoleRequired
from services.memory.domain import Budget, BudgetState, Grant, Scope, Whose
from services.memory.ports import BudgetStore

_ADMIN = "admin"


def least(grants: Iterable[Grant]) -> Grant:
    """What several budgets grant together. There is more when the windows of all that limit it have ended."""
    limiting = [each for each in grants if each.amounts]
    if not limiting:
        return Grant()
    bounds: list[tuple[int, int] | None] = [None, None, None, None]
    for each in limiting:
        for index, amount in enumerate(each.amounts):
            bound = bounds[index]
            if amount is not None and (bound is None or amount < bound[0]):
                bounds[index] = (amount, each.renews_ms)
    renewals = [bound[1] for bound in bounds if bound]
    amounts = Amounts(*(bound and bound[0] for bound in bounds))
    left = Amounts(*(_least(each) for each in zip(*(grant.left for grant in limiting), strict=True)))
    return Grant(amounts, max(renewals, default=0) if all(renewals) else 0, left)


def _least(amounts: Iterable[int | None]) -> int | None:
    return min((each for each in amounts if each is not None), default=None)


class Budgets:
    """Budgets of the tenant of whoever asks."""

    def __init__(self, store: BudgetStore) -> None:
        """Reads and writes `store`."""
        self._store = store

    async def get(self, principal: Principal, scope: Scope, session_id: str, user: str) -> BudgetState:
        """Reads a budget: an admin any, others their own and their sessions'.

        Args:
            principal: Who asks.
            scope: Whose budget it is.
            session_id: Of a session's: the session.
            user: Of a user's: the user; empty: who asks.

        Raises:
            RoleRequired: it is the tenant's, or another user's.
            SessionNotFound: there is no such session.
            InvalidArgument: no session is named.
        """
        whose = _whose(principal, scope, session_id, user)
        own = scope is Scope.SESSION or (scope is Scope.USER and whose.name == principal.user)
        if not own and _ADMIN not in principal.roles:
            raise RoleRequired(f"needs the role {_ADMIN}")
        return await self._store.get(principal, whose)

    async def set(
        self, principal: Principal, scope: Scope, session_id: str, user: str, budget: Budget | None
    ) -> BudgetState:
        """Writes a budget, or that there is none. Who may, the edge says.

        Raises:
            SessionNotFound: there is no such session.
            InvalidArgument: no session is named, or it has a window.
        """
        if scope is Scope.SESSION and budget and budget.window_ms:
            raise _invalid("budget.window", "must be absent: a session has none")
        return await self._store.set(principal, _whose(principal, scope, session_id, user), budget)


def _whose(principal: Principal, scope: Scope, session_id: str, user: str) -> Whose:
    if scope is Scope.USER:
        return Whose(scope, user or principal.user)
    if scope is Scope.TENANT:
        return Whose(scope)
    if not session_id:
        raise _invalid("session_id", "must name the session")
    return Whose(scope, session_id, "" if _ADMIN in principal.roles else principal.user)


def _invalid(field: str, text: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {text}", fields={field: text})
