"""Who may read and write which budget, and what several grant together."""

import pytest
from google.protobuf import text_format

from myriad.memory.v1 import memory_pb2, turn_pb2
from services.kit.amounts import Amounts
from services.kit.call import Call, Principal, enter
from services.kit.errors import InvalidArgument, RoleRequired, SessionNotFound
from services.memory.adapters.inmemory import InMemorySessionStore
from services.memory.adapters.inmemory_agents import InMemoryAgentStore
from services.memory.core.agents import Agents
from services.memory.core.budgets import Budgets, least
from services.memory.core.forks import Forks
from services.memory.core.sessions import Sessions
from services.memory.core.turns import Turns
from services.memory.domain import Budget, Grant, Lifetimes, Order, Scope
from services.memory.servicer import MemoryServicer

ALICE = Principal("acme", "alice")
ADMIN = Principal("acme", "root", frozenset({"admin"}))


@pytest.fixture
async def store() -> InMemorySessionStore:
    return InMemorySessionStore(Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=500))


@pytest.fixture
async def budgets(store: InMemorySessionStore) -> Budgets:
    return Budgets(store.budgets)


def test_together_budgets_grant_the_least_of_each_amount() -> None:
    assert least([]) == least([Grant(), Grant()]) == Grant()
    found = least([Grant(Amounts(5, None, 2), 100), Grant(), Grant(Amounts(7, 3), 200)])
    assert found.amounts == Amounts(5, 3, 2, None)


@pytest.mark.parametrize(
    ("grants", "renews_ms"),
    [
        ([Grant(Amounts(5), 100), Grant(Amounts(7), 200)], 100),
        ([Grant(Amounts(5), 100), Grant(Amounts(7, 1), 200)], 200),
        ([Grant(Amounts(5), 100), Grant(Amounts(None, 1), 0)], 0),
    ],
)
def test_there_is_more_when_the_windows_of_all_that_limit_have_ended(grants: list[Grant], renews_ms: int) -> None:
    assert least(grants).renews_ms == renews_ms


async def test_a_user_reads_their_own_budget_and_an_admin_any(budgets: Budgets) -> None:
    await budgets.set(ADMIN, Scope.USER, "", "alice", Budget(Amounts(tokens=5)))
    for whose in ("", "alice"):
        assert (await budgets.get(ALICE, Scope.USER, "", whose)).remaining == Amounts(tokens=5)
    assert (await budgets.get(ADMIN, Scope.USER, "", "alice")).remaining == Amounts(tokens=5)
    assert (await budgets.get(ADMIN, Scope.USER, "", "")).budget is None


async def test_anothers_budget_and_the_tenants_are_an_admins_to_read(budgets: Budgets) -> None:
    for scope, user in ((Scope.USER, "bob"), (Scope.TENANT, "")):
        with pytest.raises(RoleRequired):
            await budgets.get(ALICE, scope, "", user)
        assert (await budgets.get(ADMIN, scope, "", user)).budget is None


async def test_a_sessions_budget_is_its_users_to_read_and_an_admins_to_write(
    budgets: Budgets, store: InMemorySessionStore
) -> None:
    session = (await store.create(ALICE, "s1", "aura", None)).session_id
    await budgets.set(ADMIN, Scope.SESSION, session, "", Budget(Amounts(tool_calls=2)))
    assert (await budgets.get(ALICE, Scope.SESSION, session, "")).remaining == Amounts(tool_calls=2)
    for other in (Principal("acme", "bob"), Principal("evil", "alice"), Principal("evil", "root", ADMIN.roles)):
        with pytest.raises(SessionNotFound):
            await budgets.get(other, Scope.SESSION, session, "")


async def test_a_session_must_be_named_and_has_no_window(budgets: Budgets, store: InMemorySessionStore) -> None:
    with pytest.raises(InvalidArgument) as unnamed:
        await budgets.get(ALICE, Scope.SESSION, "", "")
    assert "session_id" in unnamed.value.fields
    await store.create(ALICE, "s1", "aura", None)
    with pytest.raises(InvalidArgument) as windowed:
        await budgets.set(ADMIN, Scope.SESSION, "s1", "", Budget(Amounts(tokens=5), 60_000))
    assert "budget.window" in windowed.value.fields


async def test_the_contract_says_what_is_limited_spent_set_apart_and_left(store: InMemorySessionStore) -> None:
    agents = InMemoryAgentStore(revisions_kept=10, agents_allowed=10)
    servicer = MemoryServicer(
        Sessions(store, agents), Turns(store), Agents(agents), Forks(store), Budgets(store.budgets)
    )
    enter(Call("/test", {}, None, "inproc", principal=ALICE))
    await store.create(ALICE, "s1", "aura", None)
    text = "scope: BUDGET_SCOPE_USER budget { limit { tokens: 90 cost_micros: 0 } window { seconds: 60 } }"
    await servicer.SetBudget(text_format.Parse(text, memory_pb2.SetBudgetRequest()), None)
    await servicer.SetBudget(
        text_format.Parse(text.replace(" cost_micros: 0", ""), memory_pb2.SetBudgetRequest()), None
    )
    turn = await store.begin(ALICE, "s1", None, 60_000, 5, Order(b"asked"))
    read = text_format.Parse("scope: BUDGET_SCOPE_USER", memory_pb2.GetBudgetRequest())
    state = (await servicer.GetBudget(read, None)).state
    assert (state.budget.limit.tokens, state.budget.limit.HasField("cost_micros")) == (90, False)
    assert (state.reserved.tokens, state.remaining.tokens, state.spent.tokens) == (90, 0, 0)
    assert state.renew_time.ToMilliseconds() == turn.renews_ms > 0
    request = turn_pb2.AbandonTurnRequest(run_id="s1.1", fencing_token=turn.token, last_events=[b"e"], first_sequence=1)
    request.spent.tokens = 40
    await servicer.AbandonTurn(request, None)
    state = (await servicer.GetBudget(read, None)).state
    assert (state.reserved.tokens, state.remaining.tokens, state.spent.tokens) == (0, 50, 40)
    none = memory_pb2.SetBudgetRequest(scope="BUDGET_SCOPE_USER")
    assert not (await servicer.SetBudget(none, None)).state.HasField("budget")
