"""Promise 5, on memory and a real store: nothing is spent beyond a budget, however many runs go at once."""

import asyncio
import json
import uuid
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from myriad.common.v1 import budget_pb2
from myriad.memory.v1 import memory_pb2
from myriad.orchestrator.v1 import budgets_pb2, run_pb2
from services.kit.call import Call, Principal, enter
from services.kit.contracts import contract
from services.kit.errors import BudgetExhausted
from services.kit.redis import Redis
from services.kit.topology import SERVICES
from services.orchestrator.adapters.memory import MemoryDirectory, MemoryTurns
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.budgets import REMAINING
from services.orchestrator.config import Config
from services.orchestrator.domain.agent import Agent, SideEffect, Tool, ToolCall
from services.orchestrator.domain.turn import Chunk
from services.orchestrator.servicer import OrchestratorServicer
from tests.support.memory import running_memory
from tests.support.orchestrator import bench, kinds
from tests.support.valkey import running_valkey

SEARCH = Tool("search", "Searches.", {"type": "object", "properties": {}}, 5.0)
AGAIN = ["Let me see. ", 0.002, Chunk(tool_calls=(ToolCall("", "search", "{}"),))]
"""What the model says each time: another tool. Each call has 10 tokens read and 5 written, and costs 20."""
RUNAWAY = Agent("aura", 3, "You help.", tools={"search": SEARCH}, model_chooses_tools=True, max_steps=50)
CONFIG = Config(coalesce_s=0.01, heartbeat_s=1.0, end_s=5.0, model_prices=("llm=1000/2000",))
RUNS = 20
FIELDS = ("tokens", "cost_micros", "tool_calls")
PAY = Tool("pay", "Pays.", {"type": "object", "properties": {}}, 5.0, SideEffect.SIDE_EFFECT)
ASKED = 15
"""Tokens that one call of the model takes."""

SAY_WHAT_REMAINS = {"CreateRun", "CreateRuns", "RespondToRun", "GetRun", "GetBudget", "SetBudget"}
SILENT = {
    "spends nothing": {"CreateSession", "GetSession", "ListSessions", "ForkSession", "DeleteSession"}
    | {"SubmitFeedback", "GetAgent", "ListAgents", "ListDeadLetters"},
    "says it of each run, in its usage": {"ListRuns"},
    "what a run has spent that is told to stop is known when it has: GetRun says it": {"CancelRun"},
    "an operator has others spend": {"RedriveDeadLetter"},
}
"""RPCs with one reply that say nothing of budgets, by the reason."""


@pytest.fixture(scope="module")
async def url(tmp_path_factory):
    async with running_valkey(tmp_path_factory.mktemp("valkey")) as found:
        yield found


class World:
    """An orchestrator and a memory on one store, and a user in it."""

    def __init__(self, memory, runs, model):
        self.user = Principal(f"tenant-{uuid.uuid4().hex}", "alice", frozenset({"admin"}))
        self.memory, self.runs, self.model = memory, runs, model

    async def sessions(self, count):
        await self.memory.put_agent(self.user)
        return [await self.memory.session(self.user) for _ in range(count)]

    async def limit(self, scope="BUDGET_SCOPE_USER", session_id="", window_s=0, **limit):
        budget = a_budget(window_s, **limit)
        request = memory_pb2.SetBudgetRequest(scope=scope, session_id=session_id, budget=budget)
        return (await self.memory.ask(self.user, "SetBudget", request)).state

    async def state(self, scope="BUDGET_SCOPE_USER", session_id=""):
        request = memory_pb2.GetBudgetRequest(scope=scope, session_id=session_id)
        return (await self.memory.ask(self.user, "GetBudget", request)).state

    async def all_at_once(self, bench, sessions):
        """How often runs ended in which way, one in each session, all begun at once."""

        async def one(session):
            try:
                run_id = await bench.begin(session=session, principal=self.user, runs=self.runs)
            except BudgetExhausted:
                return "refused"
            events = await bench.events(run_id, principal=self.user, runs=self.runs)
            return kinds(events)[-1]

        return Counter(await asyncio.gather(*map(one, sessions)))


def a_budget(window_s, **limit):
    budget = budget_pb2.Budget(limit=budget_pb2.Amounts(**limit))
    if window_s:
        budget.window.FromSeconds(window_s)
    return budget


@pytest.fixture
async def open_world(url):
    """Opens worlds whose memory is configured so."""
    async with AsyncExitStack() as closing:

        async def open_it(b, **config):
            redis = Redis(url)
            closing.push_async_callback(redis.close)
            memory = await closing.enter_async_context(running_memory(url, **config))
            runs = b.another(CONFIG, memory=MemoryTurns(memory.client), run_log=RedisRunLog(redis, 60.0, 30.0))
            closing.push_async_callback(runs.close)
            world = World(memory, runs, b.model)
            b.agents.put(world.user.tenant, b.agent)
            return world

        yield open_it


@pytest.fixture
async def b():
    async with bench(agent=RUNAWAY) as made:
        made.model.scripts = [AGAIN]
        made.tools.results["search"] = ('{"found": 0}', False)
        yield made


@pytest.mark.parametrize("limit", [{"tokens": 700}, {"cost_micros": 900}, {"tool_calls": 30}])
@pytest.mark.parametrize("scope", ["BUDGET_SCOPE_USER", "BUDGET_SCOPE_TENANT"])
async def test_twenty_runaways_at_once_spend_no_more_than_their_budget(b, open_world, scope, limit):
    world = await open_world(b, reserved_tokens=150, reserved_cost_micros=200, reserved_tool_calls=7)
    await world.limit(scope, **limit)
    ended = await world.all_at_once(b, await world.sessions(RUNS))
    assert set(ended) == {"refused", "failed"}
    state = await world.state(scope)
    ((field, most),) = limit.items()
    assert most / 2 < getattr(state.spent, field) <= most
    assert getattr(state.reserved, field) == 0
    assert getattr(state.remaining, field) == most - getattr(state.spent, field)


async def test_the_control_without_reservations_spends_more(b, open_world):
    world = await open_world(b, reserved_tokens=150, reservation_ttl=0.0)
    await world.limit(tokens=700)
    ended = await world.all_at_once(b, await world.sessions(RUNS))
    assert ended["failed"] > 5
    assert (await world.state()).spent.tokens > 700


async def test_what_the_events_say_was_used_is_what_the_budgets_count(b, open_world):
    world = await open_world(b)
    (session,) = await world.sessions(1)
    b.agents.put(world.user.tenant, Agent(**{**as_dict(RUNAWAY), "max_steps": 3}))
    run_id = await b.begin(session=session, principal=world.user, runs=world.runs)
    usage = (await b.events(run_id, principal=world.user, runs=world.runs))[-1].failed.usage
    for scope, name in (("BUDGET_SCOPE_SESSION", session), ("BUDGET_SCOPE_USER", ""), ("BUDGET_SCOPE_TENANT", "")):
        spent = (await world.state(scope, name)).spent
        assert [getattr(spent, each) for each in FIELDS] == [
            usage.prompt_tokens + usage.completion_tokens,
            usage.cost_micros,
            usage.tool_calls,
        ]
        assert spent.milliseconds > 0


async def test_a_run_that_is_cancelled_settles_what_it_has_used_and_frees_the_rest(b, open_world):
    b.model.scripts = [["on and ", 60.0]]
    world = await open_world(b)
    (session,) = await world.sessions(1)
    await world.limit(tokens=100_000)
    run_id = await b.begin("please", session=session, principal=world.user, runs=world.runs)
    async for entry in world.runs.watch(world.user, run_id, 0):
        if entry is not None and b"on and " in entry:
            break
    assert (await world.state()).reserved.tokens > 0  # the control
    await world.runs.cancel(world.user, run_id)
    events = await asyncio.wait_for(b.events(run_id, principal=world.user, runs=world.runs), 5)
    assert kinds(events)[-1] == "cancelled"
    state = await world.state()
    assert (state.reserved.tokens, state.spent.tokens > 0) == (0, True)


async def test_ten_chats_at_once_share_what_would_be_one_runs_if_each_took_all_it_might_use(b, open_world):
    b.model.scripts = [["on and ", 60.0]]
    world, extended = await open_world(b), []
    memory = world.runs._accepting._memory
    memory.extend_turn = lambda *args: extended.append(args)
    b.agents.put(world.user.tenant, Agent("aura", 3, "You help.", max_tokens=32_768))
    await world.limit(tokens=150_000)
    asked = [
        await b.begin("please", session=session, principal=world.user, runs=world.runs)
        for session in await world.sessions(10)
    ]
    for run_id in asked:
        async for entry in world.runs.watch(world.user, run_id, 0):
            if entry is not None and b"on and " in entry:
                break
    assert 10_000 < (await world.state()).reserved.tokens < 100_000
    assert extended == []  # the straight path asks once
    for run_id in asked:
        await world.runs.cancel(world.user, run_id)
        events = await asyncio.wait_for(b.events(run_id, principal=world.user, runs=world.runs), 5)
        assert kinds(events)[-1] == "cancelled"
    assert (await world.state()).reserved.tokens == 0


async def test_a_run_of_many_steps_has_more_set_apart_step_by_step_up_to_all_there_is(b, open_world):
    world = await open_world(b, reserved_tokens=150)
    (session,) = await world.sessions(1)
    b.agents.put(world.user.tenant, Agent(**{**as_dict(RUNAWAY), "max_steps": 100, "max_tokens": 32_768}))
    await world.limit(tool_calls=40, tokens=100_000)
    run_id = await b.begin(session=session, principal=world.user, runs=world.runs)
    failed = (await b.events(run_id, principal=world.user, runs=world.runs))[-1].failed
    assert "BUDGET_EXHAUSTED" in str(failed.error)
    assert (failed.usage.tool_calls, failed.usage.remaining.tool_calls) == (40, 0)  # 16 are set apart at a time
    assert failed.usage.remaining.tokens == 100_000 - failed.usage.prompt_tokens - failed.usage.completion_tokens


async def test_a_run_of_the_line_whose_budget_is_gone_ends_in_its_log_and_the_next_too(b, open_world):
    world = await open_world(b)
    (session,) = await world.sessions(1)
    await world.limit(tokens=60)
    asked = [await b.begin(str(n), session=session, principal=world.user, runs=world.runs) for n in range(3)]
    for run_id in asked:
        events = await asyncio.wait_for(b.events(run_id, principal=world.user, runs=world.runs), 5)
        assert kinds(events)[-1] == "failed"
        assert "BUDGET_EXHAUSTED" in str(events[-1].failed.error)
    assert (await world.state()).spent.tokens <= 60


def as_dict(agent):
    return {name: getattr(agent, name) for name in agent.__slots__}


async def answer(world, servicer, method, request, user):
    """A reply of the edge's servicer, and what its initial metadata says remains."""
    call = Call("/test", {}, None, "inproc", principal=user)
    enter(call)
    reply = await getattr(servicer, method)(request, None)
    return reply, call.reply_metadata.get(REMAINING)


async def test_the_edge_reads_and_writes_budgets_and_says_what_remains(b, open_world):
    world = await open_world(b)
    servicer = OrchestratorServicer(world.runs, MemoryDirectory(world.memory.client), None, None)
    budget = a_budget(3600, tokens=70, tool_calls=3)
    write = budgets_pb2.SetBudgetRequest(scope="BUDGET_SCOPE_USER", budget=budget)
    reply, remaining = await answer(world, servicer, "SetBudget", write, world.user)
    assert (reply.state.budget, remaining) == (budget, '{"tokens":"70","toolCalls":"3"}')
    read = budgets_pb2.GetBudgetRequest(scope="BUDGET_SCOPE_USER")
    reply, remaining = await answer(world, servicer, "GetBudget", read, world.user)
    assert (reply.state.remaining.tokens, remaining) == (70, '{"tokens":"70","toolCalls":"3"}')
    read = budgets_pb2.GetBudgetRequest(scope="BUDGET_SCOPE_TENANT")
    assert (await answer(world, servicer, "GetBudget", read, world.user))[1] is None


async def test_a_run_for_the_workers_is_accepted_with_word_of_what_remains(b, open_world):
    world = await open_world(b)
    (session,) = await world.sessions(1)
    servicer = OrchestratorServicer(world.runs, MemoryDirectory(world.memory.client), None, None)
    request = run_pb2.CreateRunRequest(session_id=session, input="hello", request_id="r1")
    reply, remaining = await answer(world, servicer, "CreateRun", request, world.user)
    assert (reply.run.state, remaining) == (run_pb2.RUN_STATE_QUEUED, None)  # nothing is limited
    await world.limit(tokens=70, tool_calls=3)
    await world.limit("BUDGET_SCOPE_TENANT", tokens=60)
    request.request_id = "r2"
    _, remaining = await answer(world, servicer, "CreateRun", request, world.user)
    assert remaining == '{"tokens":"60","toolCalls":"3"}'


def test_each_reply_says_what_remains_or_has_a_reason_not_to():
    unary = {
        each.name for each in contract(SERVICES["orchestrator"].proto_service).methods if not each.server_streaming
    }
    silent = [name for names in SILENT.values() for name in names]
    assert sorted([*SAY_WHAT_REMAINS, *silent]) == sorted(unary)


@pytest.mark.parametrize("limited", [True, False], ids=["limited", "control: nothing is"])
async def test_all_that_a_user_spends_by_is_answered_with_what_remains(b, open_world, limited):
    world = await open_world(b)
    b.agents.put(world.user.tenant, Agent("aura", 3, "You help.", tools={"pay": PAY}, model_chooses_tools=True))
    b.model.scripts = [[Chunk(tool_calls=(ToolCall("", "pay", "{}"),))], ["Paid."]]
    b.tools.results["pay"] = ("{}", False)
    servicer = OrchestratorServicer(world.runs, MemoryDirectory(world.memory.client), None, None)
    paying, waiting = await world.sessions(2)
    limit = a_budget(3600, tokens=100_000) if limited else None
    said = {}

    async def ask(method, request):
        reply, said[method] = await answer(world, servicer, method, request, world.user)
        return reply

    await ask("SetBudget", budgets_pb2.SetBudgetRequest(scope="BUDGET_SCOPE_USER", budget=limit))
    await ask("GetBudget", budgets_pb2.GetBudgetRequest(scope="BUDGET_SCOPE_USER"))
    run_id = await b.begin(session=paying, principal=world.user, runs=world.runs)
    asked = (await b.events(run_id, principal=world.user, runs=world.runs))[-1].approval_required
    yes = run_pb2.RespondToRunRequest(run_id=run_id, approval_token=asked.approval_token, approve=run_pb2.Approve())
    await ask("RespondToRun", yes)
    ended = (await b.events(run_id, principal=world.user, runs=world.runs))[-1].completed
    await ask("GetRun", run_pb2.GetRunRequest(run_id=run_id))
    item = run_pb2.CreateRunRequest(session_id=waiting, input="hello")
    await ask("CreateRun", item)
    await ask("CreateRuns", run_pb2.CreateRunsRequest(requests=[item]))
    assert set(said) == SAY_WHAT_REMAINS
    if not limited:
        assert set(said.values()) == {None}
        return
    left = [int(json.loads(said[name])["tokens"]) for name in ("SetBudget", "RespondToRun", "GetRun", "CreateRun")]
    assert left == [100_000, 100_000 - ASKED, ended.usage.remaining.tokens, ended.usage.remaining.tokens]
    assert said["CreateRuns"] is not None
    assert said["GetBudget"] == said["SetBudget"]
