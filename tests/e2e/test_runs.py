"""Runs in all their states over the real stack, by gRPC and by JSON through Envoy: what is promised, and bad input."""

import asyncio
import base64
import json
import time
from contextlib import aclosing

import grpc
import pytest
from google.protobuf import duration_pb2, json_format, timestamp_pb2

from myriad.common.v1 import agent_pb2, budget_pb2, scheduling_pb2, tool_pb2
from myriad.orchestrator.v1 import budgets_pb2, queue_pb2, run_event_pb2, run_pb2
from services.dev.environment import CALLBACK_SECRET
from services.kit.status import from_proto, from_rpc_error
from services.toolexec.core.signing import derive
from tests.support.client import face, kinds, put_agent, sim
from tests.support.http_server import answer
from tests.support.waiting import until
from tests.support.webhooks import verified

CALCULATION = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
PAY = {
    "name": "pay",
    "description": "Pays.",
    "side_effect": "SIDE_EFFECT_SIDE_EFFECT",
    "builtin": {"function": "calculator"},
    "parameters": CALCULATION,
}
SLOW = {**PAY, "name": "slow", "description": "Computes slowly.", "side_effect": "SIDE_EFFECT_READ", "background": True}
PICK = {"name": "pick", "description": "Picks a file.", "side_effect": "SIDE_EFFECT_READ", "client": {}}
FOREVER = sim(forever=True, delay_ms=30)
WAITS = run_pb2.RUN_STATE_WAITING


def calls(tool, then=None, **arguments):
    """What to say so that the model calls a tool, and then says what the tools answered."""
    return sim(tool_calls=[{"name": tool, "arguments": arguments}], then=then or {"echo": True})


PAYS = calls("pay", expression="6*7")


@pytest.fixture(scope="module")
async def user(stack):
    await put_agent(stack, "player")
    tools = [json_format.ParseDict(tool, tool_pb2.Tool()) for tool in (PAY, SLOW, PICK)]
    choosing = agent_pb2.ModelPolicy(model="sim_llm", tool_choice=agent_pb2.TOOL_CHOICE_MODEL)
    await put_agent(stack, "clerk", tools=tools, model=choosing)
    async with face(stack) as made:
        yield made


async def state(user, run_id):
    return (await user.ask("GetRun", run_id=run_id)).run.state


async def begun(user, session, text, **fields):
    """A run whose model has begun to speak, and what was seen of it."""
    call = user.run(session, text, on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE, **fields)
    seen = []
    while "text_delta" not in kinds(seen):
        seen.append(await call.read())
    call.cancel()
    return seen[0].run_id


async def refused(doing):
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await doing
    return from_rpc_error(raised.value, "orchestrator")


async def said(user, session):
    """What a session's history has, as the model is shown it: (role, text)."""
    told = json.loads((await user.turn(session, sim(echo=True)))[-1].completed.answer)
    return [(message["role"], message["content"]) for message in told[1:-1]]


async def paying(user):
    """A run that waits for an approval, and its token."""
    events = await user.turn(await user.session("clerk"), PAYS)
    assert kinds(events)[-1] == "approval_required"
    assert await state(user, events[0].run_id) == WAITS
    return events[0].run_id, events[-1].approval_required


async def test_each_run_of_a_batch_has_an_outcome_of_its_own(user):
    session = await user.session("player")
    items = [{"session_id": each, "input": sim(text="done")} for each in (session, "06absent", session)]
    items.append({"session_id": session})
    results = (await user.ask("CreateRuns", requests=items)).results
    assert [each.WhichOneof("result") for each in results] == ["run", "error", "run", "error"]
    assert from_proto(results[1].error).reason == "SESSION_NOT_FOUND"
    assert list(from_proto(results[3].error).fields) == ["input"]
    for each in (results[0], results[2]):
        assert (await user.watched(each.run.run_id))[-1].completed.answer == "done"
    over_json = (await user.http.post("/v1/runs:batchCreate", json={"requests": items})).json()["results"]
    assert [sorted(each) for each in over_json] == [["run"], ["error"], ["run"], ["error"]]
    assert (await refused(user.ask("CreateRuns"))).reason == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"priority": 10}, "priority"),
        ({"queue_class": 9}, "queue_class"),
        ({"concurrency": 9}, "concurrency"),
        ({"start_after": timestamp_pb2.Timestamp(seconds=int(time.time()) + 31 * 86_400)}, "start_after"),
        ({"callback_url": "ftp://example.com/"}, "callback_url"),
        ({"callback_url": "http://127.0.0.1:1/hook"}, "callback_url"),
        ({"callback_url": "https://10.0.0.1/hook"}, "callback_url"),
        ({"callback_url": "https://169.254.169.254/latest"}, "callback_url"),
        ({"callback_url": "https://[::1]/hook"}, "callback_url"),
        ({"callback_url": "http://example.com/hook"}, "callback_url"),
    ],
)
async def test_a_run_that_cannot_be_is_refused_by_its_field_and_leaves_nothing(user, fields, named):
    session = await user.session("player")
    error = await refused(user.ask("CreateRun", session_id=session, input="hello", **fields))
    assert (error.reason, list(error.fields)) == ("INVALID_ARGUMENT", [named])
    assert (await user.ask("ListRuns", session_id=session)).runs == []


async def test_a_run_for_the_heavy_models_waits_for_a_worker_that_has_them_and_can_be_cancelled(user):
    session = await user.session("player")
    fields = {
        "session_id": session,
        "input": sim(text="heavy"),
        "queue_class": scheduling_pb2.QUEUE_CLASS_GPU,
        "priority": 9,
    }
    run = (await user.ask("CreateRun", **fields)).run
    assert run.state == run_pb2.RUN_STATE_QUEUED
    after = (await user.ask("CreateRun", session_id=session, input=sim(text="light"))).run.run_id
    await asyncio.sleep(0.3)
    assert await state(user, run.run_id) == run_pb2.RUN_STATE_QUEUED
    await user.ask("CancelRun", run_id=run.run_id)
    assert kinds(await user.watched(run.run_id)) == ["started", "queued", "cancelled"]
    assert await state(user, run.run_id) == run_pb2.RUN_STATE_CANCELLED
    assert (await user.watched(after))[-1].completed.answer == "light"


async def test_a_second_turn_is_refused_waits_interrupts_or_rolls_back_as_it_says(user):
    session = await user.session("player")
    first = await begun(user, session, FOREVER)
    error = await refused(user.turn(session, "no", concurrency=scheduling_pb2.CONCURRENCY_REJECT))
    assert error.reason == "SESSION_BUSY"
    waiting = asyncio.create_task(user.turn(session, sim(text="second")))
    await until(lambda: _has(user, f"{session}.2", run_pb2.RUN_STATE_QUEUED), 5)
    third = await user.turn(session, sim(text="third"), concurrency=scheduling_pb2.CONCURRENCY_INTERRUPT)
    assert third[-1].completed.answer == "third"
    assert (await waiting)[-1].completed.answer == "second"
    cancelled = (await user.watched(first))[-1].cancelled
    assert cancelled.partial_answer
    assert not cancelled.rolled_back
    history = await said(user, session)
    assert history[:2] == [("user", FOREVER), ("assistant", cancelled.partial_answer)]
    assert [text for _, text in history[2:]] == [sim(text="second"), "second", sim(text="third"), "third"]


async def _has(user, run_id, wanted):
    try:
        return await state(user, run_id) == wanted
    except grpc.aio.AioRpcError:
        return False


async def test_what_is_rolled_back_leaves_no_message_and_says_so_over_json_too(user):
    session = await user.session("player")
    first = await begun(user, session, FOREVER)
    body = {"input": sim(text="instead"), "concurrency": "CONCURRENCY_ROLLBACK"}
    events = [event async for _, event in user.sse("POST", f"/v1/sessions/{session}:run", json=body)]
    assert events[-1]["completed"]["answer"] == "instead"
    cancelled = (await user.watched(first))[-1].cancelled
    assert cancelled.rolled_back
    assert await said(user, session) == [("user", body["input"]), ("assistant", "instead")]


async def test_a_run_is_stopped_at_work_and_while_it_waits_and_its_session_is_free(user):
    session = await user.session("clerk")
    run_id = await begun(user, session, FOREVER)
    assert (await user.http.post(f"/v1/runs/{run_id}:cancel", json={})).status_code == 200
    assert kinds(await user.watched(run_id))[-1] == "cancelled"
    run_id = (await user.turn(session, PAYS))[0].run_id
    assert await state(user, run_id) == WAITS
    await user.ask("CancelRun", run_id=run_id)
    await until(lambda: _has(user, run_id, run_pb2.RUN_STATE_CANCELLED), 5)
    await user.ask("CancelRun", run_id=run_id)  # changes nothing
    free = await user.turn(session, sim(text="free"), concurrency=scheduling_pb2.CONCURRENCY_REJECT)
    assert free[-1].completed.answer == "free"


async def test_a_tool_runs_once_it_is_approved_and_the_token_is_good_for_one_answer(user):
    run_id, asked = await paying(user)
    assert asked.reason == run_event_pb2.APPROVAL_REASON_SIDE_EFFECT
    assert asked.expire_time.ToSeconds() > time.time()
    body = {"approval_token": asked.approval_token, "approve": {}}
    assert (await user.http.post(f"/v1/runs/{run_id}:respond", json=body)).status_code == 200
    events = await user.watched(run_id)
    assert kinds(events)[-1] == "completed"
    (finished,) = (event.tool_finished for event in events if event.HasField("tool_finished"))
    assert (finished.outcome, json.loads(finished.result_json)["result"]) == (run_event_pb2.TOOL_OUTCOME_OK, 42)
    assert (await user.http.post(f"/v1/runs/{run_id}:respond", json=body)).status_code == 200  # it may not have heard
    other = {"approval_token": asked.approval_token, "deny": {}}
    again = await user.http.post(f"/v1/runs/{run_id}:respond", json=other)
    assert (again.status_code, again.json()["details"][0]["reason"]) == (403, "APPROVAL_INVALID")
    assert await user.watched(run_id) == events


async def test_a_token_that_is_altered_or_anothers_is_refused_and_the_run_waits_on(user):
    run_id, asked = await paying(user)
    _, other = await paying(user)
    altered = asked.approval_token[:-1] + ("A" if asked.approval_token[-1] != "A" else "B")
    for token in (altered, other.approval_token, "x"):
        error = await refused(user.ask("RespondToRun", run_id=run_id, approval_token=token, approve=run_pb2.Approve()))
        assert error.reason == "APPROVAL_INVALID"
    assert await state(user, run_id) == WAITS
    fields = {"run_id": run_id, "approval_token": asked.approval_token}
    assert (await refused(user.ask("RespondToRun", **fields))).reason == "INVALID_ARGUMENT"
    broken = run_pb2.ClientToolResult(result_json="{broken")
    assert list((await refused(user.ask("RespondToRun", **fields, tool_result=broken))).fields) == [
        "tool_result.result_json"
    ]
    assert await state(user, run_id) == WAITS


async def test_an_approver_of_the_tenant_may_answer_and_a_stranger_finds_no_run(stack, user):
    run_id, asked = await paying(user)
    fields = {"run_id": run_id, "approval_token": asked.approval_token, "approve": run_pb2.Approve()}
    for who in ({}, {"tenant": "other", "roles": ("approver",)}, {"tenant": "other", "user": user.user}):
        async with face(stack, **who) as stranger:
            assert (await refused(stranger.ask("RespondToRun", **fields))).reason == "RUN_NOT_FOUND"
    assert await state(user, run_id) == WAITS
    async with face(stack, roles=("approver",)) as approver:
        assert (await approver.ask("RespondToRun", **fields)).run.run_id == run_id
        assert (await refused(approver.ask("GetRun", run_id=run_id))).reason == "RUN_NOT_FOUND"
    assert kinds(await user.watched(run_id))[-1] == "completed"


async def test_a_tool_that_is_turned_down_does_not_run_and_the_model_is_told_why(user):
    run_id, asked = await paying(user)
    deny = run_pb2.Deny(reason="too expensive")
    await user.ask("RespondToRun", run_id=run_id, approval_token=asked.approval_token, deny=deny)
    events = await user.watched(run_id)
    assert "tool_started" not in kinds(events)
    (finished,) = (event.tool_finished for event in events if event.HasField("tool_finished"))
    assert (finished.outcome, finished.reason) == (run_event_pb2.TOOL_OUTCOME_REFUSED, "APPROVAL_DENIED")
    assert "too expensive" in events[-1].completed.answer


async def test_what_the_client_runs_goes_on_with_its_result(user):
    events = await user.turn(await user.session("clerk"), calls("pick"))
    asked = events[-1].approval_required
    assert (asked.call.tool, asked.reason) == ("pick", run_event_pb2.APPROVAL_REASON_CLIENT_TOOL)
    result = run_pb2.ClientToolResult(result_json='{"file": "a.txt"}')
    await user.ask("RespondToRun", run_id=events[0].run_id, approval_token=asked.approval_token, tool_result=result)
    assert "a.txt" in (await user.watched(events[0].run_id))[-1].completed.answer


async def test_an_answer_of_another_kind_runs_nothing(user):
    events = await user.turn(await user.session("clerk"), calls("pick"))
    fields = {"run_id": events[0].run_id, "approval_token": events[-1].approval_required.approval_token}
    run_id, asked = await paying(user)
    made_up = run_pb2.ClientToolResult(result_json='"paid"')
    for given in (
        fields | {"approve": run_pb2.Approve()},
        {"run_id": run_id, "approval_token": asked.approval_token, "tool_result": made_up},
    ):
        with pytest.raises(grpc.RpcError) as raised:
            await user.ask("RespondToRun", **given)
        assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert (await user.ask("GetRun", run_id=given["run_id"])).run.state == run_pb2.RUN_STATE_WAITING


async def test_a_slow_tool_lets_its_run_wait_and_go_on_by_itself(user):
    events = await user.turn(await user.session("clerk"), calls("slow", expression="6*7"))
    run_id, cursor = events[0].run_id, events[-1].sequence
    if kinds(events)[-1] != "completed":  # it may have been quick
        assert events[-1].tool_started.background
        await until(lambda: _has(user, run_id, run_pb2.RUN_STATE_COMPLETED), 10)
        events += await user.watched(run_id, after=cursor)
    assert "42" in events[-1].completed.answer
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_an_answer_is_taken_once_however_often_it_is_sent_under_its_request_id(user):
    run_id, asked = await paying(user)
    fields = {"run_id": run_id, "approval_token": asked.approval_token, "request_id": "answer-1"}
    first = await user.ask("RespondToRun", **fields, approve=run_pb2.Approve())
    await user.watched(run_id)
    assert await user.ask("RespondToRun", **fields, approve=run_pb2.Approve()) == first
    error = await refused(user.ask("RespondToRun", **fields, deny=run_pb2.Deny()))
    assert error.reason == "REQUEST_ID_REUSED"


async def test_a_run_that_ended_is_told_to_its_callback_with_a_signature(user, receiver):
    receiver.answers["/hook"] = answer(204, b"", "")
    session = await user.session("player")
    created = {"session_id": session, "input": sim(text="done"), "callback_url": receiver.url("/hook")}
    run = (await user.ask("CreateRun", **created)).run
    assert run.callback.state == run_pb2.CALLBACK_STATE_PENDING
    await user.watched(run.run_id)

    async def delivered():
        found = (await user.ask("GetRun", run_id=run.run_id)).run.callback
        return found.state == run_pb2.CALLBACK_STATE_DELIVERED

    await until(delivered, 10)
    (told,) = (each for each in receiver.requests if run.run_id.encode() in each.body)
    key = "whsec_" + base64.b64encode(derive(CALLBACK_SECRET.encode(), "dev")).decode()
    assert verified(told.headers, told.body, key, now=time.time()).startswith("msg_")
    body = json.loads(told.body)
    assert body["type"] == "run.completed"
    assert body["data"] == {"run_id": run.run_id, "session_id": session, "state": "completed"}
    found = (await user.ask("GetRun", run_id=run.run_id)).run.callback
    assert (found.attempts, found.reason) == (1, "")
    assert kinds(await user.watched(run.run_id))[-1] == "completed"  # never in the log, which has ended


async def test_a_fork_has_the_history_up_to_its_run_and_shares_nothing(user):
    session = await user.session("player")
    first = (await user.turn(session, sim(text="one")))[0].run_id
    await user.turn(session, sim(text="two"))
    forked = (await user.http.post(f"/v1/sessions/{session}:fork", json={"run_id": first, "request_id": "f1"})).json()
    fork = forked["session"]["session_id"]
    again = await user.ask("ForkSession", session_id=session, run_id=first, request_id="f1")
    assert again.session.session_id == fork
    assert [text for role, text in await said(user, fork) if role == "assistant"] == ["one"]
    assert [text for role, text in await said(user, session) if role == "assistant"] == ["one", "two"]
    absent = await refused(user.ask("ForkSession", session_id=session, run_id=f"{session}.77"))
    assert absent.reason == "RUN_NOT_FOUND"


async def test_who_watches_events_over_http_hears_at_once_that_they_listen(stack, user):
    tenant = f"quiet-{user.user}"
    await put_agent(stack, "player", tenant=tenant)
    async with face(stack, tenant=tenant) as ann, aclosing(ann.sse("GET", "/v1/events:watch")) as told:
        began = time.monotonic()
        came, silence = await anext(told)
        assert not silence.get("type")
        assert came - began < 3.0
        session = await ann.session("player")
        _, event = await anext(told)
        assert (event["type"], event["session_id"]) == ("session.started", session)


async def test_feedback_is_an_event_of_the_tenant_once_and_nobody_elses(stack, user):
    tenant = f"t-{user.user}"
    async with face(stack, user="ann", tenant=tenant) as ann, face(stack, user="bob", tenant=tenant) as bob:
        await put_agent(stack, "player", tenant=tenant)
        run_id = (await ann.turn(await ann.session("player"), sim(text="hi")))[0].run_id
        fields = {"run_id": run_id, "score": 4, "text": "well", "request_id": "word-1"}
        for _ in range(2):
            await ann.ask("SubmitFeedback", **fields)
        assert (await refused(bob.ask("SubmitFeedback", run_id=run_id, score=1))).reason == "RUN_NOT_FOUND"
        assert list((await refused(ann.ask("SubmitFeedback", run_id=run_id, score=6))).fields) == ["score"]
        found = []
        types = "types=session.started&types=run.completed&types=feedback.received"
        async for _, event in ann.sse("GET", f"/v1/events:watch?after=0&{types}"):
            found += [event] if event.get("type") else []  # one without: all that is kept was told
            if len(found) == 3:
                break
        assert [event["type"] for event in found] == ["session.started", "run.completed", "feedback.received"]
        assert found[2]["attributes"] == {"agent": "player", "score": "4", "text": "well"}
        assert {event["user"] for event in found} == {"ann"}


async def test_a_run_that_its_budget_does_not_cover_stops_keeps_what_it_said_and_says_when_there_is_more(user):
    async with face(user.stack) as spender:
        budget = budget_pb2.Budget(limit={"tokens": 400}, window=duration_pb2.Duration(seconds=3600))
        fields = {"scope": budget_pb2.BUDGET_SCOPE_USER, "budget": budget, "request_id": "budget-1"}
        first = await spender.ask("SetBudget", **fields)
        session = await spender.session("player")
        events = await spender.turn(session, sim(text="some", usage={"prompt_tokens": 300, "completion_tokens": 99}))
        assert kinds(events)[-1] == "completed"
        failed = (await spender.turn(session, "more"))[-1].failed  # one token is left, which covers no call
        assert from_proto(failed.error).reason == "BUDGET_EXHAUSTED"
        assert 3500 < (from_proto(failed.error).retry_after or 0) <= 3600
        over_json = (await spender.http.get("/v1/budget?scope=BUDGET_SCOPE_USER")).json()["state"]
        assert int(over_json["spent"]["tokens"]) == 399
        assert int(over_json["remaining"]["tokens"]) == 1
        assert await spender.ask("SetBudget", **fields) == first
        fields["budget"] = budget_pb2.Budget(limit={"tokens": 399}, window=duration_pb2.Duration(seconds=3600))
        assert (await refused(spender.ask("SetBudget", **fields))).reason == "REQUEST_ID_REUSED"
        await spender.ask("SetBudget", **fields | {"request_id": "budget-2"})
        error = await refused(spender.turn(session, "more"))
        assert error.reason == "BUDGET_EXHAUSTED"
        assert 3500 < (error.retry_after or 0) <= 3600


async def test_a_budget_is_read_by_whose_it_is_and_by_admins_and_a_reply_says_what_remains(stack, user):
    async with face(stack, roles=("visitor",)) as visitor:
        mine = {"scope": budget_pb2.BUDGET_SCOPE_USER}
        assert not (await visitor.ask("GetBudget", **mine)).state.HasField("budget")
        error = await refused(visitor.ask("GetBudget", **mine, user=user.user))
        assert error.code == "PERMISSION_DENIED"
        session = {"scope": budget_pb2.BUDGET_SCOPE_SESSION, "session_id": await user.session("player")}
        assert (await refused(visitor.ask("GetBudget", **session))).reason == "SESSION_NOT_FOUND"
        await user.ask("SetBudget", **mine, user=visitor.user, budget=budget_pb2.Budget(limit={"tokens": 7}))
        assert (await user.ask("GetBudget", **mine, user=visitor.user)).state.remaining.tokens == 7
        reply = await visitor.http.get("/v1/budget?scope=BUDGET_SCOPE_USER")
        assert json.loads(reply.headers["x-myriad-budget-remaining"]) == {"tokens": "7"}


async def test_a_run_is_stopped_in_the_middle_by_the_budget_of_its_session(user):
    session = await user.session("clerk")
    budget = budget_pb2.Budget(limit={"tool_calls": 1})
    await user.ask("SetBudget", scope=budget_pb2.BUDGET_SCOPE_SESSION, session_id=session, budget=budget)
    then = {"text": "half ", "tool_calls": [{"name": "slow", "arguments": {"expression": "1+1"}}]}
    events = await user.turn(session, calls("slow", then=then, expression="6*7"))
    run_id = events[0].run_id
    await until(lambda: _has(user, run_id, run_pb2.RUN_STATE_FAILED), 10)
    failed = (await user.watched(run_id))[-1].failed
    error = from_proto(failed.error)
    assert (error.reason, error.retry_after) == ("BUDGET_EXHAUSTED", None)
    assert failed.partial_answer == "half "
    assert failed.usage.tool_calls == 1


@pytest.mark.parametrize(
    ("rpc", "path", "request_message"),
    [
        ("ListDeadLetters", "/v1/deadLetters", queue_pb2.ListDeadLettersRequest()),
        ("RedriveDeadLetter", None, queue_pb2.RedriveDeadLetterRequest(run_id="06absent.1")),
        ("SetBudget", None, budgets_pb2.SetBudgetRequest(scope=budget_pb2.BUDGET_SCOPE_TENANT)),
        (None, "/v1/events:watch", None),
    ],
)
async def test_what_operators_see_is_denied_to_users(stack, rpc, path, request_message):
    async with face(stack, roles=("visitor",)) as visitor:
        if rpc:
            assert (await refused(visitor.ask(rpc, request_message))).reason == "ROLE_REQUIRED"
        if path:
            assert (await visitor.http.get(path)).status_code == 403


async def test_a_dead_letter_that_is_not_there_cannot_be_driven_again(user):
    tenant = f"empty-{user.user}"
    async with face(user.stack, tenant=tenant) as operator:
        assert (await operator.ask("ListDeadLetters", queue_pb2.ListDeadLettersRequest())).dead_letters == []
        request = queue_pb2.RedriveDeadLetterRequest(run_id="06absent.1")
        assert (await refused(operator.ask("RedriveDeadLetter", request))).reason == "DEAD_LETTER_NOT_FOUND"
