import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.kit.call import Principal
from services.kit.errors import (
    AgentNotFound,
    ApprovalRequired,
    ExecutionInProgress,
    FailedPrecondition,
    InvalidToolArguments,
    ResourceExhausted,
    StoreUnavailable,
    ToolNotAllowed,
    ToolNotFound,
    ToolTimeout,
    ToolUnavailable,
)
from services.toolexec.adapters.inmemory import FixedClock, InMemoryHttpCaller, InMemoryResultStore, InMemoryToolSource
from services.toolexec.core.execution import Execution, Executor, Runners
from services.toolexec.core.functions import FunctionFailed
from services.toolexec.core.gate import Gate
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.core.schema import Schemas
from services.toolexec.domain import AgentTools, CallKey, FunctionCall, HttpCall, HttpResponse, SideEffect, Tool

ANN = Principal("acme", "ann", frozenset({"clerk"}))
CRM = "http://127.0.0.1:7180"


def tool(name: str, call=None, side_effect=SideEffect.READ, **changes) -> Tool:
    made = Tool(name, "does it", {"type": "object"}, side_effect, 10.0, frozenset(), call or FunctionCall(name))
    return replace(made, **changes)


def http(method: str = "GET", url: str = "/x", endpoint: str = "crm", **changes) -> HttpCall:
    return replace(HttpCall(method, endpoint, url, {}, 65_536, idempotency_key=False), **changes)


def execution(tool: str, arguments: object = None, **changes) -> Execution:
    text = json.dumps(arguments if arguments is not None else {})
    return replace(Execution("aura", 0, tool, text, "s1.1", "k1", None), **changes)


class World:
    """An executor with fakes around it."""

    def __init__(self, *tools: Tool, answers=None, private=frozenset(), per_tool: int = 4, in_all: int = 8) -> None:
        self.clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.store = InMemoryResultStore(self.clock)
        self.caller = InMemoryHttpCaller(answers or {}, private)
        self.ran: list[dict] = []
        self.release = asyncio.Event()
        source = InMemoryToolSource()
        source.put("acme", AgentTools("aura", 3, {each.name: each for each in tools}))
        functions = {"note": self._note, "wait": self._wait, "fail": self._fail}
        endpoints = HttpTools(self.caller, {"crm": CRM}, frozenset({80, 443}))
        runners = Runners(functions, endpoints)
        self.executor = Executor(source, runners, self.store, Schemas(), Gate(per_tool, in_all), self.clock)

    async def run(self, tool: str, arguments: object = None, principal: Principal = ANN, **changes):
        return await self.executor.execute(principal, execution(tool, arguments, **changes))

    async def _note(self, arguments):
        self.ran.append(dict(arguments))
        self.clock.move(0.25)
        return {"run": len(self.ran)}

    async def _wait(self, arguments):
        self.ran.append(dict(arguments))
        await self.release.wait()
        return "done"

    async def _fail(self, arguments):
        self.ran.append(dict(arguments))
        raise FunctionFailed("no such thing")


async def test_what_is_not_there_is_not_found():
    world = World(tool("note"))
    with pytest.raises(AgentNotFound):
        await world.run("note", agent="other")
    with pytest.raises(AgentNotFound):
        await world.run("note", revision=9)
    with pytest.raises(AgentNotFound):
        await world.run("note", principal=Principal("other", "ann"))
    with pytest.raises(ToolNotFound):
        await world.run("other")


async def test_a_tool_with_roles_needs_one_of_them():
    world = World(tool("note", roles=frozenset({"boss", "owner"})), tool("wait"))
    with pytest.raises(ToolNotAllowed):
        await world.run("note")
    assert [each.name for each in await world.executor.tools(ANN, "aura", 0)] == ["wait"]
    boss = Principal("acme", "bob", frozenset({"boss"}))
    assert (await world.run("note", principal=boss)).outcome.result_json == '{"run":1}'
    assert [each.name for each in await world.executor.tools(boss, "aura", 3)] == ["note", "wait"]


async def test_roles_come_before_arguments_and_arguments_before_approval():
    strict = {"type": "object", "required": ["a"]}
    world = World(
        tool("note", roles=frozenset({"boss"}), parameters=strict),
        tool("wait", side_effect=SideEffect.SIDE_EFFECT, parameters=strict),
    )
    with pytest.raises(ToolNotAllowed):
        await world.run("note")
    with pytest.raises(InvalidToolArguments):
        await world.run("wait")
    with pytest.raises(ApprovalRequired):
        await world.run("wait", {"a": 1})
    assert world.ran == []


async def test_arguments_that_do_not_fit_run_nothing():
    world = World(tool("note", parameters=None))
    with pytest.raises(InvalidToolArguments):
        await world.run("note", {"a": 1})
    with pytest.raises(InvalidToolArguments):
        await world.run("note", arguments_json="[")
    assert world.ran == []


async def test_a_function_nobody_installed_is_said_so():
    with pytest.raises(FailedPrecondition, match="not installed the function other"):
        await World(tool("note", FunctionCall("other"))).run("note")


async def test_a_tools_own_failure_is_a_result_for_the_model():
    outcome = (await World(tool("fail")).run("fail")).outcome
    assert outcome.is_error
    assert json.loads(outcome.result_json) == {"error": "no such thing"}


async def test_what_only_reads_runs_each_time_and_needs_no_store():
    world = World(tool("note"))
    world.store.begin = None
    assert [(await world.run("note")).outcome.result_json for _ in range(2)] == ['{"run":1}', '{"run":2}']


async def test_the_same_key_runs_once():
    world = World(tool("note", side_effect=SideEffect.IDEMPOTENT))
    first = await world.run("note")
    second = await world.run("note")
    assert (first.replayed, second.replayed) == (False, True)
    assert first.outcome == second.outcome
    assert first.outcome.duration == 0.25
    assert len(world.ran) == 1


async def test_an_error_is_kept_too():
    world = World(tool("fail", side_effect=SideEffect.IDEMPOTENT))
    await world.run("fail")
    second = await world.run("fail")
    assert second.replayed and second.outcome.is_error
    assert len(world.ran) == 1


@pytest.mark.parametrize("changes", [{"idempotency_key": "k2"}, {"run_id": "s1.2"}, {"run_id": "s2.1"}])
async def test_another_key_or_run_runs_again(changes):
    world = World(tool("note", side_effect=SideEffect.IDEMPOTENT))
    await world.run("note")
    assert not (await world.run("note", **changes)).replayed


async def test_another_user_or_tool_never_sees_a_result():
    world = World(
        tool("note", side_effect=SideEffect.IDEMPOTENT),
        tool("again", FunctionCall("note"), side_effect=SideEffect.IDEMPOTENT),
    )
    await world.run("note")
    assert not (await world.run("note", principal=Principal("acme", "bob"))).replayed
    assert not (await world.run("again")).replayed


async def test_the_same_key_at_the_same_time_is_refused():
    world = World(tool("wait", side_effect=SideEffect.IDEMPOTENT))
    first = asyncio.create_task(world.run("wait"))
    await asyncio.sleep(0)
    with pytest.raises(ExecutionInProgress) as caught:
        await world.run("wait")
    assert caught.value.retry_after
    world.release.set()
    assert not (await first).replayed
    assert (await world.run("wait")).replayed
    assert len(world.ran) == 1


async def test_a_call_that_was_cancelled_frees_its_key():
    world = World(tool("wait", side_effect=SideEffect.IDEMPOTENT))
    first = asyncio.create_task(world.run("wait"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    world.release.set()
    assert not (await world.run("wait")).replayed


async def test_a_call_that_failed_frees_its_key():
    world = World(tool("get", http(), SideEffect.IDEMPOTENT))
    for _ in range(2):
        with pytest.raises(ToolUnavailable):
            await world.run("get")
    assert len(world.caller.requests) == 2


async def test_a_crashed_call_blocks_its_key_only_a_little_longer_than_its_timeout():
    world = World(tool("note", side_effect=SideEffect.IDEMPOTENT, timeout=2.0))
    store, begun = world.store, []

    async def begin(principal, key, running_for):
        begun.append(running_for)
        return await InMemoryResultStore.begin(store, principal, key, running_for)

    store.begin = begin
    await begin(ANN, CallKey("s1.1", "note", "k1"), 7.0)  # by a process that died
    with pytest.raises(ExecutionInProgress):
        await world.run("note")
    world.clock.move(7.0)
    assert not (await world.run("note")).replayed
    assert begun[1:] == [7.0, 7.0]


async def test_results_are_forgotten_after_a_day():
    world = World(tool("note", side_effect=SideEffect.IDEMPOTENT))
    await world.run("note")
    world.clock.move(86_399)
    assert (await world.run("note")).replayed
    world.clock.move(2)
    assert not (await world.run("note")).replayed


async def test_a_store_that_is_gone_runs_nothing():
    world = World(tool("note", side_effect=SideEffect.IDEMPOTENT))

    async def begin(*_args):
        raise StoreUnavailable("gone")

    world.store.begin = begin
    with pytest.raises(StoreUnavailable):
        await world.run("note")
    assert world.ran == []


async def test_a_store_that_goes_meanwhile_costs_no_result():
    world = World(tool("note", side_effect=SideEffect.IDEMPOTENT), tool("get", http(), SideEffect.IDEMPOTENT))

    async def gone(*_args):
        raise StoreUnavailable("gone")

    world.store.finish = world.store.abandon = gone
    assert (await world.run("note")).outcome.result_json == '{"run":1}'
    with pytest.raises(ToolUnavailable):
        await world.run("get")


@pytest.mark.parametrize("side_effect", [SideEffect.READ, SideEffect.IDEMPOTENT])
@pytest.mark.parametrize(("timeout", "remaining"), [(0.05, None), (10.0, 0.07), (0.05, 10.0), (10.0, 0.0)])
async def test_the_shorter_of_tool_timeout_and_deadline_ends_a_call(side_effect, timeout, remaining):
    world = World(tool("wait", side_effect=side_effect, timeout=timeout))
    started = asyncio.get_running_loop().time()
    with pytest.raises(ToolTimeout):
        await world.run("wait", remaining=remaining)
    assert asyncio.get_running_loop().time() - started < 0.5
    world.release.set()
    assert not (await world.run("wait")).replayed


async def test_more_calls_of_a_tool_than_allowed_are_refused_at_once():
    world = World(tool("wait"), tool("note"), per_tool=2)
    running = [asyncio.create_task(world.run("wait")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as caught:
        await world.run("wait")
    assert caught.value.retry_after
    await world.run("note")
    world.release.set()
    await asyncio.gather(*running)
    await world.run("wait")


async def test_more_calls_in_all_than_allowed_are_refused_and_leave_no_key_taken():
    world = World(tool("wait"), tool("note", side_effect=SideEffect.IDEMPOTENT), in_all=1)
    running = asyncio.create_task(world.run("wait"))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await world.run("note")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not (await world.run("note")).replayed


async def test_arguments_go_to_the_path_then_the_query_or_the_body():
    ok = HttpResponse(200, "application/json", b"{}", truncated=False, location="")
    paths = ("/orders/1", "/orders")
    world = World(
        tool("get", http(url="/orders/{id}")),
        tool("delete", http("DELETE", "/orders/{id}")),
        tool("post", http("POST", "/orders")),
        tool("put", http("PUT", "/orders/{id}?by={by}")),
        answers={CRM + path: ok for path in paths},
    )
    await world.run("get", {"id": 1, "full": True})
    await world.run("delete", {"id": 1, "why": "a&b"})
    await world.run("post", {"id": 1, "lines": [{"n": 1}]})
    await world.run("put", {"id": 1, "by": "ann", "state": "ü"})
    sent = [(each.method, each.url.target, each.body) for each in world.caller.requests]
    assert sent == [
        ("GET", "/orders/1?full=true", None),
        ("DELETE", "/orders/1?why=a%26b", None),
        ("POST", "/orders", b'{"id": 1, "lines": [{"n": 1}]}'),
        ("PUT", "/orders/1?by=ann", b'{"state": "\\u00fc"}'),
    ]


async def test_nothing_of_the_caller_leaves():
    ok = HttpResponse(200, "application/json", b"{}", truncated=False, location="")
    world = World(
        tool("plain", http("POST"), SideEffect.IDEMPOTENT),
        tool("keyed", http("POST", idempotency_key=True), SideEffect.IDEMPOTENT),
        answers={CRM + "/x": ok},
    )
    await world.run("plain")
    await world.run("keyed")
    await world.run("keyed", principal=Principal("acme", "bob"))
    await world.run("keyed", run_id="s1.2")
    plain, *keyed = world.caller.requests
    assert set(plain.headers) == {"Accept", "Accept-Encoding", "Content-Type", "User-Agent"}
    keys = [each.headers["Idempotency-Key"] for each in keyed]
    assert len(set(keys)) == 3
    for request in world.caller.requests:
        text = str(request.headers) + str(request.url)
        assert not any(word in text for word in ("acme", "ann", "bob", "clerk", "s1", "k1"))


async def test_a_repeated_call_sends_the_same_key():
    world = World(tool("keyed", http("POST", idempotency_key=True), SideEffect.IDEMPOTENT))
    for _ in range(2):
        with pytest.raises(ToolUnavailable):
            await world.run("keyed")
    first, second = (each.headers["Idempotency-Key"] for each in world.caller.requests)
    assert first == second


@pytest.mark.parametrize("url", ["http://h:22/", "https://h:6379/", "http://user@h/", "ftp://h/", "/x", "http://{a}/"])
async def test_a_url_that_may_not_be_called_is_the_agents_fault_and_calls_nothing(url):
    world = World(tool("get", http(url=url, endpoint="")))
    with pytest.raises(FailedPrecondition, match="the URL of the tool get may not be called"):
        await world.run("get", {"a": "evil"})
    assert world.caller.requests == []


async def test_an_endpoint_the_operator_has_not_named_is_refused():
    world = World(tool("get", http(endpoint="billing")))
    with pytest.raises(FailedPrecondition, match="no endpoint billing"):
        await world.run("get")
    assert world.caller.requests == []


def leads(location: str, status: int = 302) -> HttpResponse:
    return HttpResponse(status, "", b"", truncated=False, location=location)


async def test_a_redirect_of_an_endpoint_is_an_error_and_not_followed():
    world = World(tool("get", http()), answers={CRM + "/x": leads("/y")})
    outcome = (await world.run("get")).outcome
    assert outcome.is_error
    assert json.loads(outcome.result_json)["status"] == 302
    assert len(world.caller.requests) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_only_a_get_is_led_elsewhere(method):
    world = World(tool("do", http(method, "https://h/x", "")), answers={"https://h:443/x": leads("/y", 307)})
    assert (await world.run("do")).outcome.is_error
    assert len(world.caller.requests) == 1


async def test_three_redirects_are_followed_and_no_more():
    ok = HttpResponse(200, "application/json", b"1", truncated=False, location="")
    answers = {f"https://h:443/{i}": leads(f"/{i - 1}") for i in range(1, 9)} | {"https://h:443/0": ok}
    world = World(tool("get", http(url="https://h/{n}", endpoint="")), answers=answers)
    assert (await world.run("get", {"n": 3})).outcome.result_json == "1"
    assert all(each.public_only for each in world.caller.requests)
    outcome = (await world.run("get", {"n": 4})).outcome
    assert outcome.is_error and "3 times" in outcome.result_json
    assert len(world.caller.requests) == 4 + 4


@pytest.mark.parametrize(
    "location",
    ["http://h/", "https://h:22/", "https://user@h/", "file:///etc/passwd", "https://10.0.0.1/", "https://h/../x"],
)
async def test_a_redirect_to_what_may_not_be_called_is_refused(location):
    world = World(
        tool("get", http(url="https://h/x", endpoint="")),
        answers={"https://h:443/x": leads(location)},
        private=frozenset({"10.0.0.1"}),
    )
    with pytest.raises(FailedPrecondition):
        await world.run("get")
