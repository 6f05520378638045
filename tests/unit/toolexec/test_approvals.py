"""A tool with side effects runs once for each approval, and for no other call than the one that was approved."""

import asyncio
from dataclasses import replace

import pytest

from services.kit.call import Principal
from services.kit.errors import ApprovalInvalid, ApprovalRequired, ExecutionInProgress, ToolUnavailable
from services.toolexec.core import execution as module
from services.toolexec.domain import CallKey, SideEffect
from tests.support.toolexec import ANN, Process, Shared, a_tool, approval, at_noon, call_key, execution
from tests.support.waiting import until

ARGUMENTS = '{"order": "1007"}'
REFUND = call_key("refund", ARGUMENTS)


class World:
    """A shop that pays back and counts what it paid."""

    def __init__(self) -> None:
        self.shared = Shared(at_noon())
        self.paid: list[dict] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.fails = False
        tools = (a_tool(name, SideEffect.SIDE_EFFECT) for name in ("refund", "donate"))
        self.shared.add(*tools, a_tool("look"), a_tool("reserve", SideEffect.IDEMPOTENT))
        pay = self._pay
        self.process = Process(self.shared, {"refund": pay, "donate": pay, "look": pay, "reserve": pay})

    async def run(self, tool: str = "refund", arguments: str = ARGUMENTS, who: Principal = ANN, **changes):
        asked = replace(execution(tool, arguments), **changes)
        return await self.process.executor.execute(who, asked)

    async def _pay(self, arguments):
        self.paid.append(dict(arguments))
        await self.hold.wait()
        if self.fails:
            raise ToolUnavailable("the shop broke off")
        return {"paid": len(self.paid)}


@pytest.fixture
def world() -> World:
    return World()


async def test_without_an_approval_it_does_not_run(world):
    world.shared.approve(REFUND)
    with pytest.raises(ApprovalRequired):
        await world.run()
    assert world.paid == []


async def test_with_its_approval_it_runs_once_and_the_result_is_repeated(world):
    token = world.shared.approve(REFUND)
    first = await world.run(approval=token)
    second = await world.run(approval=token)
    assert (first.replayed, second.replayed) == (False, True)
    assert first.outcome == second.outcome
    assert len(world.paid) == 1


@pytest.mark.parametrize("state", ["open", "denied", "used", ""])
async def test_what_was_not_approved_or_is_used_is_invalid(world, state):
    token = world.shared.approve(REFUND, state=state)
    with pytest.raises(ApprovalInvalid):
        await world.run(approval=token)
    assert world.paid == []


async def test_an_approval_expires(world):
    token = world.shared.approve(REFUND, lasts_s=60.0)
    world.shared.clock.move(60.0)
    with pytest.raises(ApprovalInvalid):
        await world.run(approval=token)
    assert world.paid == []


async def test_a_token_that_nobody_was_given_is_invalid(world):
    world.shared.approve(REFUND, "t1")
    with pytest.raises(ApprovalInvalid):
        await world.run(approval=approval("t2"))
    assert world.paid == []


OTHERS = {
    "other arguments": (call_key("refund", '{"order": "1008"}'), {"arguments": '{"order": "1008"}'}),
    "another tool": (call_key("donate", ARGUMENTS), {"tool": "donate"}),
    "another step": (
        call_key("refund", ARGUMENTS, step=2),
        {"idempotency_key": call_key("refund", ARGUMENTS, step=2).idempotency_key},
    ),
    "another run": (call_key("refund", ARGUMENTS, "s1.2"), {"run_id": "s1.2"}),
    "another session": (call_key("refund", ARGUMENTS, "s2.1"), {"run_id": "s2.1"}),
    "another user": (REFUND, {"who": Principal("acme", "bob")}),
}


@pytest.mark.parametrize("other", OTHERS)
async def test_an_approval_is_of_one_call_and_no_other(world, other):
    token = world.shared.approve(REFUND)
    with pytest.raises(ApprovalInvalid):
        await world.run(approval=token, **OTHERS[other][1])
    assert world.paid == []
    assert not (await world.run(approval=token)).replayed  # the refusal has not used it up


async def test_another_tenant_has_no_use_for_an_approval(world):
    token = world.shared.approve(REFUND)
    theirs = world.shared.source._agents["acme", "aura"][3]
    world.shared.source.put("other", theirs)
    with pytest.raises(ApprovalInvalid):
        await world.run(approval=token, who=Principal("other", "ann"))
    assert world.paid == []


async def altered(world: World) -> None:
    """Asks for other arguments under the key that was approved."""
    token = world.shared.approve(REFUND)
    await world.run(arguments='{"order": "9999"}', approval=token, idempotency_key=REFUND.idempotency_key)


async def test_altered_arguments_under_the_approved_key_are_invalid(world):
    with pytest.raises(ApprovalInvalid):
        await altered(world)
    assert world.paid == []


async def test_control_without_the_digest_altered_arguments_would_run(world, monkeypatch):
    monkeypatch.setattr(module, "is_key_of", lambda *_: True)
    await altered(world)
    assert world.paid == [{"order": "9999"}]


async def test_of_many_callers_at_once_one_runs(world):
    token = world.shared.approve(REFUND)
    world.hold.clear()
    calls = [asyncio.create_task(world.run(approval=token)) for _ in range(5)]
    await until(lambda: sum(call.done() for call in calls) == 4)
    world.hold.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert len(world.paid) == 1
    assert sum(isinstance(each, ExecutionInProgress) for each in results) == 4


async def test_what_failed_is_not_begun_again_under_the_same_approval(world):
    token = world.shared.approve(REFUND)
    world.fails = True
    with pytest.raises(ToolUnavailable):
        await world.run(approval=token)
    world.fails = False
    with pytest.raises(ApprovalInvalid):
        await world.run(approval=token)
    assert len(world.paid) == 1
    assert not (await world.run(approval=world.shared.approve(REFUND, "t2"))).replayed


async def test_what_was_cut_is_not_begun_again_under_the_same_approval(world):
    token = world.shared.approve(REFUND)
    world.hold.clear()
    call = asyncio.create_task(world.run(approval=token))
    await until(lambda: world.paid)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    world.hold.set()
    with pytest.raises(ApprovalInvalid):
        await world.run(approval=token)
    assert len(world.paid) == 1


async def begun_by_one_that_died(world: World) -> str:
    token = world.shared.approve(REFUND)
    await world.shared.store.begin_approved(ANN, REFUND, token, 15.0)
    return token


async def test_what_was_begun_by_a_process_that_died_is_never_begun_again_under_the_same_approval(world):
    token = await begun_by_one_that_died(world)
    with pytest.raises(ExecutionInProgress):  # nobody knows yet that it died
        await world.run(approval=token)
    world.shared.clock.move(15.0)
    with pytest.raises(ApprovalInvalid):
        await world.run(approval=token)
    assert world.paid == []


async def test_a_new_approval_lets_it_run_once_more(world):
    await begun_by_one_that_died(world)
    world.shared.clock.move(15.0)
    await world.run(approval=world.shared.approve(REFUND, "t2"))
    assert len(world.paid) == 1


async def test_control_what_needs_no_approval_is_begun_again(world):
    key = call_key("reserve", ARGUMENTS)
    await world.shared.store.begin(ANN, CallKey("s1.1", "reserve", key.idempotency_key), 15.0)
    world.shared.clock.move(15.0)
    await world.run("reserve")
    assert len(world.paid) == 1


async def test_an_approval_that_nobody_needs_is_not_looked_at(world):
    token = world.shared.approve(REFUND)
    await world.run("look", approval=approval("nonsense"))
    await world.run("reserve", approval=token)
    assert not (await world.run(approval=token)).replayed
