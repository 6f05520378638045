"""The agent loop: what it asks whom, what it writes down, how it ends."""

import json

import pytest

from services.kit.errors import (
    ApprovalRequired,
    DeadlineExceeded,
    InvalidToolArguments,
    ModelFailed,
    ModelUnavailable,
    ServiceUnavailable,
    ToolResponseTooLarge,
    ToolTimeout,
    VectorIndexUnavailable,
)
from services.orchestrator.domain.agent import Intent, Knowledge, Message, Role, Tool, ToolBinding, ToolCall
from services.orchestrator.domain.turn import Chunk, Citation, Entity, Understanding
from tests.support.orchestrator import ALICE, SESSION, bench, deltas, kinds

FACT = Citation("help", "returns", "Returns", "returns#0", 0, 20, "# Returns\n\nReturns take 30 days.\nAt most.", 0.9)
KNOWS = {"knowledge": Knowledge(("help",), 3, 0.0), "intents": {"returns": Intent("returns")}}
SCHEMA = {"type": "object", "properties": {"order_id": {"type": "integer"}}, "required": ["order_id"]}
STATUS = Tool("order_status", "Looks an order up.", SCHEMA, 5.0)
ASKS = Intent("order_status", ToolBinding("order_status", {"order_id": "order_id"}, "Which order?"))
ORDERS = {"tools": {"order_status": STATUS}, "intents": {"order_status": ASKS}}
ORDER_1007 = Entity("order_id", "1007", 9, 13, "1007")


@pytest.fixture
async def b():
    async with bench() as made:
        yield made


def understood(intent, *entities):
    return Understanding(intents=((intent, 0.9),), entities=entities, embedding=[0.6, 0.8])


def calls(*names_and_arguments):
    return Chunk(tool_calls=tuple(ToolCall("", name, arguments) for name, arguments in names_and_arguments))


async def test_a_bare_agent_answers_with_the_model_alone(b):
    events = await b.turn()
    assert kinds(events) == ["started", "routed", "text_delta", "completed"]
    assert [event.sequence for event in events] == [1, 2, 3, 4]
    assert {event.run_id for event in events} == {f"{SESSION}.1"}
    assert (events[0].started.agent.name, events[0].started.agent.revision) == ("aura", 3)
    assert events[-1].completed.answer == "Hello."
    assert b.nlu.calls == 0


async def test_what_is_known_stands_in_the_log_before_the_answer(b):
    b.agent_is(**KNOWS)
    b.nlu.understanding, b.retrieval.facts = understood("returns"), (FACT,)
    events = await b.turn("how long do returns take?")
    assert kinds(events) == ["started", "understood", "retrieved", "routed", "text_delta", "completed"]
    assert events[2].retrieved.citations[0].document_id == "returns"


async def test_the_embedding_of_nlu_is_used_again(b):
    b.agent_is(**KNOWS)
    b.nlu.understanding = understood("returns")
    await b.turn()
    assert b.retrieval.embeddings == [[0.6, 0.8]]


async def test_the_prompt_holds_persona_facts_history_and_question(b):
    b.agent_is(**KNOWS)
    b.retrieval.facts = (FACT,)
    await b.turn("first")
    await b.turn("second")
    system, topic, fact, again, short, first, answer, second = b.model.asked[1]
    assert (system.role, system.content) == (Role.SYSTEM, "You help.")
    assert topic.content == "Please tell me about: Returns."
    assert (fact.role, fact.content) == (Role.ASSISTANT, "Returns take 30 days. At most.")
    assert (again.content, short.content) == ("Returns, in one sentence?", "Returns take 30 days.")
    assert [first.content, answer.content, second.content] == ["first", "Hello.", "second"]


async def test_an_intent_that_needs_no_knowledge_searches_nothing(b):
    b.agent_is(**(KNOWS | {"intents": {"hi": Intent("hi", skip_knowledge=True)}}))
    b.nlu.understanding = understood("hi")
    assert "retrieved" not in kinds(await b.turn())
    assert b.retrieval.embeddings == []


@pytest.mark.parametrize("error", [ServiceUnavailable("gone"), ModelUnavailable("no embedder")])
async def test_dead_nlu_degrades_and_retrieval_embeds_itself(b, error):
    b.agent_is(**KNOWS)
    b.nlu.error = error
    events = await b.turn()
    assert kinds(events) == ["started", "degraded", "retrieved", "routed", "text_delta", "completed"]
    assert (events[1].degraded.component, events[1].degraded.reason) == ("nlu", error.reason)
    assert b.retrieval.embeddings == [()]


async def test_dead_retrieval_degrades_and_the_turn_goes_on(b):
    b.agent_is(**KNOWS)
    b.retrieval.error = VectorIndexUnavailable("gone")
    events = await b.turn()
    assert events[2].degraded.component == "retrieval"
    assert kinds(events)[-1] == "completed"


@pytest.mark.parametrize("error", [ServiceUnavailable("it does not answer"), DeadlineExceeded("it does not answer")])
async def test_dead_toolexec_degrades_and_the_model_is_told(b, error):
    b.agent_is(**ORDERS)
    b.nlu.understanding = understood("order_status", ORDER_1007)
    b.tools.results["order_status"] = error
    events = await b.turn()
    assert kinds(events)[3:6] == ["tool_started", "degraded", "tool_finished"]
    assert events[4].degraded.component == "toolexec"
    assert "does not answer" in b.model.asked[0][-1].content
    assert kinds(events)[-1] == "completed"


async def test_a_dead_model_fails_the_run_and_says_when_to_try_again(b):
    b.model.scripts = [[ModelUnavailable("the model tier does not answer", retry_after=1.0)]]
    events = await b.turn()
    assert kinds(events) == ["started", "routed", "failed"]
    error = events[-1].failed.error
    assert (error.code, error.message) == (14, "the model tier does not answer")
    assert any(detail.type_url.endswith("RetryInfo") for detail in error.details)


async def test_a_model_that_breaks_in_the_middle_keeps_its_partial_answer(b):
    b.model.scripts = [["One, ", 0.05, "two", ModelFailed("the model failed")]]
    events = await b.turn()
    assert events[-1].failed.partial_answer == "One, two" == deltas(events)
    assert [m.content for m in b.store.history(ALICE, SESSION)] == ["hello", "One, two"]


async def test_a_run_that_fails_before_it_says_anything_leaves_no_trace_in_the_history(b):
    b.model.scripts = [[ModelFailed("the model failed")]]
    await b.turn()
    assert b.store.history(ALICE, SESSION) == []
    b.model.scripts = [["Hello."]]
    assert kinds(await b.turn())[-1] == "completed"


async def test_a_bug_ends_the_run_as_internal_without_detail(b):
    b.model.scripts = [[ZeroDivisionError("/secret")]]
    events = await b.turn()
    assert (events[-1].failed.error.code, events[-1].failed.error.message) == (13, "internal error")


async def test_an_understood_intent_calls_its_tool_and_the_model_sees_the_result(b):
    b.agent_is(**ORDERS)
    b.nlu.understanding = understood("order_status", ORDER_1007)
    b.tools.results["order_status"] = ('{"status":"shipped"}', False)
    events = await b.turn("where is 1007?")
    assert kinds(events) == [
        "started",
        "understood",
        "routed",
        "tool_started",
        "tool_finished",
        "text_delta",
        "completed",
    ]
    ((call, run_id, key),) = b.tools.calls
    assert json.loads(call.arguments_json) == {"order_id": 1007}
    assert (run_id, key.split(".")[:2]) == (f"{SESSION}.1", ["0", "0"])
    assert b.model.asked[0][-1] == Message(Role.TOOL, '{"status":"shipped"}', tool_call_id=call.id)
    assert events[-1].completed.usage.tool_calls == 1
    assert [m.role for m in b.store.history(ALICE, SESSION)] == [Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT]


async def test_a_missing_argument_is_asked_for_and_the_answer_to_it_calls_the_tool(b):
    b.agent_is(**ORDERS)
    b.nlu.understanding = understood("order_status")
    events = await b.turn("where is my order?")
    assert events[-1].completed.answer == "Which order?"
    assert (events[2].routed.model, b.model.asked) == ("", [])
    b.nlu.understanding = Understanding(out_of_scope=True, entities=(ORDER_1007,))
    b.tools.results["order_status"] = ("{}", False)
    assert "tool_finished" in kinds(await b.turn("1007"))


async def test_an_out_of_scope_utterance_calls_no_tool(b):
    b.agent_is(**ORDERS)
    b.nlu.understanding = Understanding((("order_status", 0.3),), True, (ORDER_1007,))
    assert "tool_started" not in kinds(await b.turn())


@pytest.mark.parametrize(
    ("result", "outcome", "reason"),
    [
        (('{"error":"no such order"}', True), 2, "TOOL_ERROR"),
        (ToolTimeout("it took longer than 5 s"), 2, "TOOL_TIMEOUT"),
        (ApprovalRequired("a person must approve it"), 3, "APPROVAL_REQUIRED"),
        (InvalidToolArguments("bad", fields={"arguments.order_id": "must be 4 digits"}), 3, "INVALID_TOOL_ARGUMENTS"),
    ],
)
async def test_a_tool_that_does_not_succeed_is_told_to_the_model(b, result, outcome, reason):
    b.agent_is(**ORDERS)
    b.nlu.understanding = understood("order_status", ORDER_1007)
    b.tools.results["order_status"] = result
    events = await b.turn()
    finished = events[4].tool_finished
    assert (finished.outcome, finished.reason) == (outcome, reason)
    assert finished.result_json == b.model.asked[0][-1].content
    assert kinds(events)[-1] == "completed"


async def test_the_model_may_call_tools_only_where_the_agent_lets_it(b):
    b.agent_is(tools={"order_status": STATUS})
    b.model.scripts = [["Hm.", calls(("order_status", "{}"))]]
    events = await b.turn()
    assert b.model.offered == [()]
    assert "tool_started" not in kinds(events)


async def test_tools_the_model_asks_for_run_until_it_has_an_answer(b):
    b.agent_is(tools={"order_status": STATUS}, model_chooses_tools=True)
    asks = ["Let me see. ", calls(("order_status", '{"order_id": 1}'), ("order_status", '{"order_id": 2}'))]
    b.model.scripts = [asks, ["Both are on their way."]]
    b.tools.results["order_status"] = ('{"ok":1}', False)
    events = await b.turn()
    assert events[-1].completed.answer == "Let me see. Both are on their way."
    assert [call.id for call, _, _ in b.tools.calls] == ["call_1_0", "call_1_1"]
    assert len({key for _, _, key in b.tools.calls}) == 2
    assert [m.role for m in b.model.asked[1]][-3:] == [Role.ASSISTANT, Role.TOOL, Role.TOOL]
    assert events[-1].completed.usage.model_calls == 2


async def test_what_a_model_invents_stays_within_what_history_takes(b):
    b.agent_is(tools={"order_status": STATUS}, model_chooses_tools=True)
    wild = calls(*[("x" * 500, "y" * 100_000)] * 40, ("", "{}"))
    b.model.scripts = [[wild], ["Done."]]
    events = await b.turn()
    assert kinds(events)[-1] == "completed"
    assert kinds(events).count("tool_started") == 16
    messages = b.store.history(ALICE, SESSION)
    assert max(len(call.tool) for message in messages for call in message.tool_calls) == 64
    assert max(len(call.arguments_json) for message in messages for call in message.tool_calls) == 16_000


async def test_a_tool_that_ran_and_said_too_much_is_an_error_and_counted(b):
    b.agent_is(**ORDERS)
    b.nlu.understanding = understood("order_status", ORDER_1007)
    b.tools.results["order_status"] = ToolResponseTooLarge("its answer is larger than 64 KiB")
    events = await b.turn()
    assert (events[4].tool_finished.outcome, events[4].tool_finished.reason) == (2, "TOOL_RESPONSE_TOO_LARGE")
    assert events[-1].completed.usage.tool_calls == 1


async def test_an_unknown_tool_is_refused_and_told(b):
    b.agent_is(tools={"order_status": STATUS}, model_chooses_tools=True)
    b.model.scripts = [[calls(("rm_rf", "{}"))], ["Sorry."]]
    events = await b.turn()
    assert events[3].tool_finished.reason == "TOOL_NOT_FOUND"
    assert b.tools.calls == []
    assert kinds(events)[-1] == "completed"


async def test_a_model_that_only_makes_bad_calls_is_offered_no_tools_any_more(b):
    b.agent_is(tools={"order_status": STATUS}, model_chooses_tools=True, max_steps=10)
    b.model.scripts = [[calls(("nothing", "{}"))]]
    events = await b.turn()
    assert kinds(events).count("tool_started") == 3
    assert b.model.offered[-1] == ()
    assert events[-1].failed.error.message == "the model asked for tools that it may not use, and said nothing"


async def test_a_model_that_asks_on_for_tools_it_may_not_use_completes_with_what_it_said(b):
    b.agent_is(tools={"order_status": STATUS}, model_chooses_tools=True, max_steps=10)
    b.model.scripts = [["Hm. ", calls(("nothing", "{}"))]]
    events = await b.turn()
    assert events[-1].completed.answer == "Hm. " * 4


async def test_an_answer_longer_than_the_history_takes_ends_the_run_and_is_kept_so_far(b):
    b.model.scripts = [["ö" * 100_000, "ö" * 31_072, "!"]]
    events = await b.turn()
    failed = events[-1].failed
    assert (failed.error.code, failed.error.message) == (8, "the answer is longer than 262144 bytes")
    assert len(failed.partial_answer.encode()) == 262_144
    assert b.store.history(ALICE, SESSION)[-1].content == failed.partial_answer


async def test_arguments_that_do_not_fit_never_leave_and_are_told_to_the_model(b):
    b.agent_is(tools={"order_status": STATUS}, model_chooses_tools=True)
    b.model.scripts = [[calls(("order_status", '{"order_id": "seven"}'))], ["Sorry."]]
    events = await b.turn()
    assert b.tools.calls == []
    told = json.loads(b.model.asked[1][-1].content)
    assert told["fields"] == {"arguments.order_id": '"seven" is not of type "integer"'}
    assert events[-1].completed.usage.tool_calls == 0


async def test_an_intents_arguments_are_checked_too(b):
    b.agent_is(**ORDERS)
    b.nlu.understanding = understood("order_status", Entity("order_id", "seven", 0, 5, "seven"))
    events = await b.turn()
    assert events[4].tool_finished.reason == "INVALID_TOOL_ARGUMENTS"
    assert b.tools.calls == []


async def test_ids_of_a_model_that_repeat_are_not_used(b):
    b.agent_is(tools={"order_status": STATUS}, model_chooses_tools=True)
    same = Chunk(tool_calls=tuple(ToolCall("same", "order_status", f'{{"order_id": {n}}}') for n in (1, 2)))
    b.model.scripts = [[same], ["Done."]]
    b.tools.results["order_status"] = ("{}", False)
    events = await b.turn()
    started = [event.tool_started.call.tool_call_id for event in events if kinds([event]) == ["tool_started"]]
    assert started == ["call_1_0", "call_1_1"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_steps": 3}, "steps"),
        ({"max_tokens": 12}, "tokens"),
        ({"timeout_s": 0.1}, "longer than 0.1 s"),
    ],
)
async def test_a_runaway_stops_at_its_limit_and_keeps_its_partial_answer(b, limits, message):
    b.agent_is(**({"tools": {"order_status": STATUS}, "model_chooses_tools": True, "max_steps": 50} | limits))
    b.model.scripts = [["again ", calls(("order_status", '{"order_id": 1}')), 0.02]]
    b.tools.results["order_status"] = ("{}", False)
    events = await b.turn()
    failed = events[-1].failed
    assert failed.error.code == 8
    assert message in failed.error.message
    assert failed.partial_answer.startswith("again ")
    assert failed.partial_answer == deltas(events)
    if "max_steps" in limits:
        assert failed.usage.model_calls == 3


async def test_usage_adds_up_over_the_steps(b):
    b.agent_is(tools={"order_status": STATUS}, model_chooses_tools=True)
    b.model.scripts = [[calls(("order_status", '{"order_id": 1}'))], ["Done."]]
    b.tools.results["order_status"] = ("{}", False)
    usage = (await b.turn())[-1].completed.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.model_calls, usage.tool_calls) == (20, 10, 2, 1)
    assert usage.elapsed.ToNanoseconds() > 0


async def test_a_model_that_the_operator_has_not_named_is_not_asked(b):
    b.agent_is(model="another")
    last = (await b.turn())[-1]
    assert last.failed.error.code == 9
    assert "another" in last.failed.error.message
    assert not b.model.asked
