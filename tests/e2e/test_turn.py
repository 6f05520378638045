"""A turn of the example agent, as clients see it: real model, real documents, real tool, through Envoy."""

import asyncio
import json

import grpc
import pytest
from google.protobuf import json_format

from myriad.common.v1 import agent_pb2, tool_pb2
from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from tests.support.client import face, kinds, put_agent, sim

pytestmark = pytest.mark.timeout(180)

CALCULATOR = {
    "name": "calculator",
    "description": "Computes.",
    "side_effect": "SIDE_EFFECT_READ",
    "builtin": {"function": "calculator"},
    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
}


@pytest.fixture
async def user(stack):
    async with face(stack) as made:
        yield made


@pytest.fixture(scope="module")
async def player(stack):
    await put_agent(stack, "player")


async def test_an_answer_is_streamed_by_the_model_and_grounded_in_a_document(user):
    events = await user.turn(await user.session(), "How many days do I have to return an item?")
    seen = kinds(events)
    assert seen[:2] == ["started", "understood"]
    assert seen.index("retrieved") < seen.index("routed") < seen.index("text_delta")
    assert seen[-1] == "completed"
    assert seen.count("text_delta") >= 2
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    understood, retrieved = events[1].understood, events[seen.index("retrieved")].retrieved
    assert understood.intents[0].name == "return_policy"
    assert understood.language == "en"
    citation = retrieved.citations[0]
    assert "30 days" in citation.text
    assert citation.end - citation.start == len(citation.text)
    completed = events[-1].completed
    assert completed.answer == "".join(event.text_delta.text for event in events)
    assert "30" in completed.answer
    assert completed.usage.prompt_tokens > 50
    assert completed.usage.completion_tokens > 3


async def test_a_tool_is_really_called_and_its_result_answers(user):
    events = await user.turn(await user.session(), "Where is my order 1007?")
    by_kind = {event.WhichOneof("event"): event for event in events}
    call, finished = by_kind["tool_started"].tool_started.call, by_kind["tool_finished"].tool_finished
    assert (call.tool, json.loads(call.arguments_json)) == ("order_status", {"order_id": "1007"})
    assert finished.outcome == run_event_pb2.TOOL_OUTCOME_OK
    result = json.loads(finished.result_json)
    assert {"status", "carrier"} <= set(result)
    assert by_kind["completed"].completed.answer.startswith("Order 1007")
    assert result["carrier"] in by_kind["completed"].completed.answer


async def test_an_unknown_order_is_told_as_the_tools_answer(user):
    events = await user.turn(await user.session(), "Where is my order 1999?")
    (finished,) = (event.tool_finished for event in events if event.WhichOneof("event") == "tool_finished")
    assert (finished.outcome, finished.reason) == (run_event_pb2.TOOL_OUTCOME_ERROR, "TOOL_ERROR")
    assert kinds(events)[-1] == "completed"


async def test_a_missing_order_number_is_asked_for_and_then_used(user):
    session = await user.session()
    events = await user.turn(session, "has my order been sent yet?")
    assert "tool_started" not in kinds(events)
    assert "four digits" in events[-1].completed.answer
    assert "tool_finished" in kinds(await user.turn(session, "it is 1007"))


async def test_a_tool_with_side_effects_waits_for_a_person(user):
    events = await user.turn(await user.session(), "I want my money back for order 1007")
    assert "tool_started" not in kinds(events)
    asked = events[-1].approval_required
    assert (asked.call.tool, json.loads(asked.call.arguments_json)) == ("refund_order", {"order_id": "1007"})


async def test_a_run_in_the_background_is_created_watched_and_listed_over_json(user, player):
    session = await user.session("player")
    created = await user.http.post("/v1/runs", json={"session_id": session, "input": sim(text="done")})
    run_id = created.json()["run"]["run_id"]
    events = [event async for _, event in user.sse("GET", f"/v1/runs/{run_id}:watch")]
    assert events[-1]["completed"]["answer"] == "done"
    listed = (await user.http.get(f"/v1/sessions/{session}/runs")).json()
    assert [(run["run_id"], run["state"]) for run in listed["runs"]] == [(run_id, "RUN_STATE_COMPLETED")]


async def test_the_next_turn_remembers_the_first(user, player):
    session = await user.session("player")
    await user.turn(session, "My name is Ada.\n" + sim(text="Hello Ada."))
    events = await user.turn(session, sim(echo=True))
    prompt = json.loads(events[-1].completed.answer)
    assert [message["role"] for message in prompt] == ["system", "user", "assistant", "user"]
    assert "My name is Ada." in prompt[1]["content"]
    assert prompt[2]["content"] == "Hello Ada."


async def test_the_model_calls_tools_until_it_has_an_answer(stack, user):
    tool = json_format.ParseDict(CALCULATOR, tool_pb2.Tool())
    choosing = agent_pb2.ModelPolicy(model="sim_llm", tool_choice=agent_pb2.TOOL_CHOICE_MODEL)
    await put_agent(stack, "chooser", tools=[tool], model=choosing)
    script = sim(
        tool_calls=[{"name": "calculator", "arguments": {"expression": "6*7"}}],
        then={"tool_calls": [{"name": "calculator", "arguments": "{broken"}], "then": {"text": "It is 42."}},
    )
    events = await user.turn(await user.session("chooser"), script)
    finished = [event.tool_finished for event in events if event.WhichOneof("event") == "tool_finished"]
    assert [each.outcome for each in finished] == [run_event_pb2.TOOL_OUTCOME_OK, run_event_pb2.TOOL_OUTCOME_REFUSED]
    assert "42" in finished[0].result_json
    assert finished[1].reason == "INVALID_TOOL_ARGUMENTS"
    assert events[-1].completed.answer == "It is 42."


async def test_sse_shows_what_grpc_shows_and_shows_it_as_it_comes(user, player):
    session = await user.session("player")
    body = {"input": sim(tokens=10, delay_ms=100)}
    came, sent = [], []
    async for moment, event in user.sse("POST", f"/v1/sessions/{session}:run", json=body):
        came.append(moment)
        sent.append(event)
    assert came[-1] - came[0] > 0.5
    over_grpc = await user.watched(sent[0]["run_id"])
    assert [json_format.ParseDict(event, run_event_pb2.RunEvent()) for event in sent] == over_grpc
    assert kinds(over_grpc)[-1] == "completed"


@pytest.mark.parametrize("running", [True, False])
async def test_a_cursor_resumes_over_grpc_and_over_sse_alike(user, player, running):
    session = await user.session("player")
    call = user.run(session, sim(tokens=10, delay_ms=80), on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE)
    first = [await call.read() for _ in range(3)]
    run_id = first[0].run_id
    call.cancel()
    if not running:
        await user.watched(run_id)
    over_grpc, over_sse = await asyncio.gather(
        user.watched(run_id, after=3), _collect(user.sse("GET", f"/v1/runs/{run_id}:watch?after_sequence=3"))
    )
    assert [event.sequence for event in over_grpc] == list(range(4, 4 + len(over_grpc)))
    assert kinds(over_grpc)[-1] == "completed"
    assert [json_format.ParseDict(event, run_event_pb2.RunEvent()) for event in over_sse] == over_grpc


async def _collect(events):
    return [event async for _, event in events]


async def test_json_clients_manage_sessions_and_see_runs_and_agents(user, player):
    made = (await user.http.post("/v1/sessions", json={"agent": "player"})).json()["session"]
    session_id = made["session_id"]
    events = await user.turn(session_id, "hello")
    run = (await user.http.get(f"/v1/runs/{events[0].run_id}")).json()["run"]
    assert (run["state"], run["last_sequence"]) == ("RUN_STATE_COMPLETED", len(events))
    assert run["agent"]["name"] == "player"
    assert (await user.http.get(f"/v1/sessions/{session_id}")).json()["session"]["run_count"] == 1
    listed = (await user.http.get("/v1/sessions?page_size=10")).json()["sessions"]
    assert [each["session_id"] for each in listed] == [session_id]
    agents = (await user.http.get("/v1/agents")).json()["agents"]
    assert {"aura", "player"} <= {each["name"] for each in agents}
    assert (await user.http.get("/v1/agents/aura")).json()["agent"]["display_name"] == "Aura"
    for _ in range(2):  # who was not told that it is gone asks again
        assert (await user.http.delete(f"/v1/sessions/{session_id}?request_id=gone")).status_code == 200
    assert (await user.http.delete(f"/v1/sessions/{session_id}")).status_code == 404
    assert (await user.http.get(f"/v1/sessions/{session_id}")).status_code == 404


async def test_a_repeated_request_attaches_to_its_run(user, player):
    session = await user.session("player")
    first = await user.turn(session, "hello", request_id="once")
    assert await user.turn(session, "hello", request_id="once") == first
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await user.turn(session, "something else", request_id="once")
    assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_what_is_anothers_is_not_found(stack, user, player):
    session = await user.session("player")
    run_id = (await user.turn(session, "hello"))[0].run_id
    for stranger in ({"user": "mallory"}, {"user": user.user, "tenant": "evil"}):
        async with face(stack, **stranger) as other:
            for path in (f"/v1/sessions/{session}", f"/v1/runs/{run_id}", f"/v1/runs/{run_id}:watch"):
                assert (await other.http.get(path)).status_code == 404, path
            assert (await other.http.post(f"/v1/runs/{run_id}:cancel", json={})).status_code == 404
            assert (await other.http.post(f"/v1/sessions/{session}:run", json={"input": "hi"})).status_code == 404
            assert (await other.http.delete(f"/v1/sessions/{session}")).status_code == 404
            assert (await other.http.get("/v1/sessions")).json()["sessions"] == []
