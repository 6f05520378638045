"""A conversation: what events amount to, and what happens when the stream breaks or the person stops."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from myriad.common.v1 import common_pb2
from myriad.memory.v1 import memory_pb2
from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from services.dev import conversation
from services.dev.conversation import Conversation, follow
from services.dev.show import printable
from services.dev.transcript import Transcript
from services.kit.errors import Internal, InvalidArgument, ServiceUnavailable, SessionNotFound, Unavailable

RUN = "s.1"


def event(sequence: int, **what: Any) -> run_event_pb2.RunEvent:
    return run_event_pb2.RunEvent(run_id=RUN, sequence=sequence, **what)


def delta(sequence: int, text: str) -> run_event_pb2.RunEvent:
    return event(sequence, text_delta=run_event_pb2.RunTextDelta(text=text))


def asks(sequence: int, token: str = "t1") -> run_event_pb2.RunEvent:
    call = common_pb2.ToolCall(tool_call_id="c1", tool="pay", arguments_json='{"item": 7}')
    return event(
        sequence, approval_required=run_event_pb2.RunApprovalRequired(call=call, approval_token=token, reason=1)
    )


def slow_tool(sequence: int) -> run_event_pb2.RunEvent:
    started = run_event_pb2.RunToolStarted(call=common_pb2.ToolCall(tool_call_id="c1", tool="slow"), background=True)
    return event(sequence, tool_started=started)


COMPLETED = event(4, completed=run_event_pb2.RunCompleted(answer="hi", usage=common_pb2.Usage(model_calls=1)))


def transcript(*events: run_event_pb2.RunEvent) -> Transcript:
    made = Transcript()
    for each in events:
        made.add(each)
    return made


class Orchestrator:
    """Plays what it is given, one script a call; an exception in a script is raised."""

    def __init__(self, *scripts: list[run_event_pb2.RunEvent | Exception | Callable[[], Any]]) -> None:
        self.scripts = list(scripts)
        self.calls: list[Any] = []
        self.channel = grpc.aio.insecure_channel("127.0.0.1:1")

    async def stream(self, _method: object, request: Any, *, timeout: float) -> AsyncIterator[run_event_pb2.RunEvent]:
        self.calls.append(request)
        for step in self.scripts.pop(0):
            if isinstance(step, Exception):
                raise step
            if isinstance(step, run_event_pb2.RunEvent):
                yield step
            else:
                await step()

    async def unary(self, _method: object, request: Any, *, timeout: float) -> Any:
        self.calls.append(request)
        session = memory_pb2.Session(session_id="s", agent="aura")
        if getattr(request, "session_id", "s") != "s":
            raise SessionNotFound("no such session")
        if isinstance(request, run_pb2.RespondToRunRequest):
            return run_pb2.RespondToRunResponse(run=run_pb2.Run(run_id=request.run_id))
        return SimpleNamespace(session=session)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.dev.conversation._RESUME_AFTER_S", 0.0)
    monkeypatch.setattr("services.dev.conversation._LOOK_AGAIN_S", 0.0)


async def said(orchestrator: Orchestrator) -> list[int]:
    conversation = Conversation(orchestrator, "s", "aura")  # type: ignore[arg-type]
    return [each.sequence async for each in conversation.say("hello")]


def test_answer_is_the_deltas_that_count() -> None:
    made = transcript(
        delta(2, "wrong"),
        event(3, restarted=run_event_pb2.RunRestarted(discard_from_sequence=2)),
        delta(4, "ri"),
        delta(5, "ght"),
    )
    assert made.answer == "right"


def test_heartbeat_is_no_event_of_the_log() -> None:
    made = transcript(delta(2, "a"), event(0, heartbeat=run_event_pb2.RunHeartbeat()))
    assert (len(made.events), made.last_sequence) == (1, 2)


def test_tool_call_and_its_end_are_one_entry() -> None:
    call = common_pb2.ToolCall(tool_call_id="c1", tool="clock", arguments_json='{"zone": "UTC"}')
    ended = run_event_pb2.RunToolFinished(
        tool_call_id="c1", tool="clock", outcome=run_event_pb2.TOOL_OUTCOME_OK, result_json="not json"
    )
    made = transcript(event(2, tool_started=run_event_pb2.RunToolStarted(call=call)), event(3, tool_finished=ended))
    assert made.to_dict()["tools"] == [
        {
            "tool_call_id": "c1",
            "tool": "clock",
            "arguments": {"zone": "UTC"},
            "outcome": "OK",
            "reason": "",
            "result": "not json",
        }
    ]


def test_failed_run_says_why() -> None:
    made = transcript(event(2, failed=run_event_pb2.RunFailed(error=status_pb2.Status(code=14, message="no model"))))
    assert made.state == "failed"
    assert made.failure().startswith("no model")


def test_run_that_never_ended_is_no_success() -> None:
    assert transcript(delta(2, "a")).failure()


async def test_pauses_of_clients_whose_streams_broke_together_grow_and_are_not_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[list[float]] = []

    async def sleep(seconds: float) -> None:
        pauses[-1].append(seconds)

    monkeypatch.setattr("services.dev.conversation._RESUME_AFTER_S", 1.0)
    monkeypatch.setattr("services.dev.conversation.asyncio.sleep", sleep)
    for _ in range(50):
        pauses.append([])
        with pytest.raises(ServiceUnavailable):
            await said(Orchestrator(*([ServiceUnavailable("gone")] for _ in range(20))))
    for first, *_, last in pauses:
        assert 0.5 <= first <= 1.5
        assert 4.0 <= last <= 12.0
    firsts = [first for first, *_ in pauses]
    assert max(firsts) - min(firsts) > 0.5


async def test_broken_stream_is_resumed_from_the_cursor() -> None:
    orchestrator = Orchestrator([delta(2, "a"), Unavailable("gone")], [delta(3, "b"), Unavailable("gone")], [COMPLETED])
    assert await said(orchestrator) == [2, 3, 4]
    assert [getattr(call, "after_sequence", None) for call in orchestrator.calls] == [None, 2, 3]


async def test_stream_that_ends_early_is_resumed() -> None:
    assert await said(Orchestrator([delta(2, "a")], [COMPLETED])) == [2, 4]


async def test_refused_turn_is_not_repeated() -> None:
    orchestrator = Orchestrator([Unavailable("no store")])
    with pytest.raises(Unavailable):
        await said(orchestrator)
    assert len(orchestrator.calls) == 1


@pytest.mark.parametrize("error", [ServiceUnavailable("gone"), Internal("cut"), Unavailable("stops", retry_after=1.0)])
async def test_a_turn_that_was_cut_before_its_first_event_is_asked_for_again_as_the_same_request(error: Any) -> None:
    orchestrator = Orchestrator([error], [event(1), COMPLETED])
    assert await said(orchestrator) == [1, 4]
    first, second = orchestrator.calls
    assert first == second


async def test_a_stream_that_breaks_often_is_resumed_as_long_as_something_comes() -> None:
    breaking = [[delta(number, "a"), Unavailable("gone")] for number in range(2, 30)]
    assert (await said(Orchestrator(*breaking, [COMPLETED])))[-1] == 4


async def test_resuming_ends_some_time() -> None:
    orchestrator = Orchestrator([delta(2, "a")], *[[Unavailable("gone")] for _ in range(9)])
    with pytest.raises(Unavailable):
        await said(orchestrator)


async def test_run_outlives_the_client_unless_it_says_stop() -> None:
    orchestrator = Orchestrator([COMPLETED])
    await said(orchestrator)
    assert orchestrator.calls[0].on_disconnect == run_pb2.ON_DISCONNECT_CONTINUE
    assert orchestrator.calls[0].request_id


async def test_a_stop_is_said_again_while_envoy_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    orchestrator, told = Orchestrator(), []

    async def away_twice(_method: object, request: Any, *, timeout: float) -> None:
        told.append(request)
        if len(told) < 3:
            raise ServiceUnavailable("orchestrator cannot be reached")

    monkeypatch.setattr(orchestrator, "unary", away_twice)
    await conversation.cancel(orchestrator, RUN)  # type: ignore[arg-type]
    assert told == 3 * [run_pb2.CancelRunRequest(run_id=RUN)]
    monkeypatch.setattr(conversation, "TIMEOUT_S", 0.0)
    told.clear()
    with pytest.raises(ServiceUnavailable):
        await conversation.cancel(orchestrator, RUN)  # type: ignore[arg-type]


async def test_cancelled_task_stops_the_run() -> None:
    waiting = asyncio.Event()

    async def hang() -> None:
        waiting.set()
        await asyncio.Event().wait()

    orchestrator = Orchestrator([delta(2, "a"), hang])
    task = asyncio.create_task(said(orchestrator))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert orchestrator.calls[-1] == run_pb2.CancelRunRequest(run_id=RUN)


async def test_a_run_that_asks_something_is_left_until_it_is_answered() -> None:
    orchestrator = Orchestrator([event(1), asks(2)])
    conversation, seen = Conversation(orchestrator, "s", "aura"), Transcript()  # type: ignore[arg-type]
    assert [each.sequence async for each in conversation.say("pay", seen)] == [1, 2]
    assert seen.state == "waiting"
    assert seen.failure()
    told = seen.to_dict()["waits_for"]
    assert (told["tool"], told["arguments"], told["reason"]) == ("pay", {"item": 7}, "SIDE_EFFECT")
    assert told["approval_token"] == "t1"


@pytest.mark.parametrize(
    "response",
    [run_pb2.Approve(), run_pb2.Deny(reason="too much"), run_pb2.Deny(), run_pb2.ClientToolResult(result_json="7")],
    ids=["approve", "deny", "deny without a reason", "result"],
)
async def test_an_answer_goes_on_from_the_cursor(response: Any) -> None:
    orchestrator = Orchestrator([event(1), asks(2)], [delta(3, "a"), Unavailable("gone")], [COMPLETED])
    conversation, seen = Conversation(orchestrator, "s", "aura"), Transcript()  # type: ignore[arg-type]
    _ = [each async for each in conversation.say("pay", seen)]
    assert [each.sequence async for each in conversation.answer(seen, response)] == [3, 4]
    assert (seen.state, seen.asked) == ("completed", None)
    _, answered, *watched = orchestrator.calls
    assert answered.request_id
    assert (answered.run_id, answered.approval_token) == (RUN, "t1")
    assert getattr(answered, answered.WhichOneof("response")) == response
    assert [call.after_sequence for call in watched] == [2, 3]


async def test_a_second_question_is_asked_too() -> None:
    orchestrator = Orchestrator([asks(1)], [asks(2, "t2")])
    conversation, seen = Conversation(orchestrator, "s", "aura"), Transcript()  # type: ignore[arg-type]
    _ = [each async for each in conversation.say("pay", seen)]
    _ = [each async for each in conversation.answer(seen, run_pb2.Approve())]
    assert seen.asked is not None
    assert seen.asked.approval_token == "t2"


async def test_a_question_that_was_answered_is_passed_over_when_the_run_is_seen_from_its_begin() -> None:
    orchestrator = Orchestrator([event(1), asks(2)], [COMPLETED])
    seen = Transcript(run_id=RUN)
    seen.answer_taken("t1")
    assert [each.sequence async for each in follow(orchestrator, seen)] == [1, 2, 4]  # type: ignore[arg-type]


async def test_a_slow_tool_is_waited_for_as_long_as_it_takes() -> None:
    silence: list[list[Any]] = [[] for _ in range(20)]
    assert await said(Orchestrator([slow_tool(2)], *silence, [COMPLETED])) == [2, 4]


async def test_session_of_another_agent_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="with aura, not with other"):
        await Conversation.begin(Orchestrator(), agent="other", session_id="s")  # type: ignore[arg-type]


async def test_unknown_session_is_refused() -> None:
    with pytest.raises(SessionNotFound):
        await Conversation.begin(Orchestrator(), agent=None, session_id="t")  # type: ignore[arg-type]


async def test_session_knows_its_agent() -> None:
    conversation = await Conversation.begin(Orchestrator(), agent=None, session_id="s")  # type: ignore[arg-type]
    assert (conversation.session_id, conversation.agent) == ("s", "aura")


def test_a_model_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\nc\td\x9b3me") == "a[2Jb\nc\td3me"
