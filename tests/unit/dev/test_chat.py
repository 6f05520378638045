"""What the terminal shows of a run, and what it asks the person before it."""

import asyncio
import io
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from myriad.common.v1 import budget_pb2, common_pb2
from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from services.dev.chat import ask_person, turn
from services.dev.show import Show
from services.dev.transcript import Transcript
from services.kit.errors import ApprovalInvalid, RunNotWaiting, ServiceError, Unavailable

LONG = '{"item": "' + "x" * 500 + '"}'


def asked(
    reason: run_event_pb2.ApprovalReason = run_event_pb2.APPROVAL_REASON_SIDE_EFFECT, arguments: str = "{}"
) -> run_event_pb2.RunApprovalRequired:
    call = common_pb2.ToolCall(tool_call_id="c1", tool="pay", arguments_json=arguments)
    return run_event_pb2.RunApprovalRequired(call=call, approval_token="t1", reason=reason)


def person(*lines: str) -> tuple[Any, list[str]]:
    """A console at which somebody types these lines, and what they were shown."""
    left, shown = list(lines), []

    def read(prompt: str) -> str:
        shown.append(prompt)
        if not left:
            raise EOFError
        return left.pop(0)

    return SimpleNamespace(input=read, print=lambda text, **_: shown.append(text)), shown


def shown(show: Callable[[Show], None]) -> str:
    screen = io.StringIO()
    show(Show(Console(file=screen, width=80)))
    return screen.getvalue()


@pytest.mark.parametrize(
    ("typed", "response"),
    [
        (["y"], run_pb2.Approve()),
        (["  YES "], run_pb2.Approve()),
        (["", "what?", "y"], run_pb2.Approve()),
        (["n", ""], run_pb2.Deny()),
        (["no", "too much"], run_pb2.Deny(reason="too much")),
    ],
)
def test_a_tool_runs_on_a_yes_and_on_nothing_else(typed: list[str], response: run_pb2.Approve | run_pb2.Deny) -> None:
    console, _ = person(*typed)
    assert ask_person(console, asked()) == response


def test_who_leaves_has_not_answered() -> None:
    with pytest.raises(EOFError):
        ask_person(person()[0], asked())
    with pytest.raises(EOFError):
        ask_person(person("n")[0], asked())


@pytest.mark.parametrize(
    ("typed", "response"),
    [
        (['{"file": "a.txt"}'], run_pb2.ClientToolResult(result_json='{"file": "a.txt"}')),
        (["a.txt", '"a.txt"'], run_pb2.ClientToolResult(result_json='"a.txt"')),
        (["", "no such file"], run_pb2.Deny(reason="no such file")),
    ],
)
def test_a_tool_of_the_client_is_answered_with_json(typed: list[str], response: Any) -> None:
    console, _ = person(*typed)
    assert ask_person(console, asked(run_event_pb2.APPROVAL_REASON_CLIENT_TOOL)) == response


def test_what_is_approved_is_shown_whole_and_cannot_steer_the_terminal() -> None:
    text = shown(lambda show: show.question(asked(arguments=LONG)))
    assert LONG in text
    assert "changes something" in text
    assert "\x1b" not in shown(lambda show: show.question(asked(arguments='"\x1b[2J"')))


def test_an_unknown_outcome_is_said_in_plain_words() -> None:
    text = shown(lambda show: show.question(asked(run_event_pb2.APPROVAL_REASON_OUTCOME_UNKNOWN)))
    assert "may have done its work, or not" in text
    assert "once more" in text
    console, prompts = person("y")
    ask_person(console, asked(run_event_pb2.APPROVAL_REASON_OUTCOME_UNKNOWN))
    assert "once more" in prompts[0]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (run_event_pb2.RunEvent(queued=run_event_pb2.RunQueued(position=2)), "waits: 2 ahead"),
        (run_event_pb2.RunEvent(restarted=run_event_pb2.RunRestarted(discard_from_sequence=3)), "begins again"),
        (
            run_event_pb2.RunEvent(degraded=run_event_pb2.RunDegraded(component="nlu", reason="GONE")),
            "without nlu: GONE",
        ),
        (
            run_event_pb2.RunEvent(usage=common_pb2.Usage(prompt_tokens=3, completion_tokens=4)),
            "7 tokens, 0 tool calls\n",
        ),
        (
            run_event_pb2.RunEvent(usage=common_pb2.Usage(remaining=budget_pb2.Amounts(cost_micros=1_500_000))),
            "left: 1.5 of money",
        ),
    ],
)
def test_what_happens_beside_the_answer_is_said(event: run_event_pb2.RunEvent, said: str) -> None:
    assert said in shown(lambda show: show.event(event))


def test_a_run_that_is_first_in_its_line_says_nothing_of_it() -> None:
    assert shown(lambda show: show.event(run_event_pb2.RunEvent(queued=run_event_pb2.RunQueued()))) == ""


class Talk:
    """A conversation whose run asks until somebody has answered it with a yes; a failure of the answer is raised."""

    agent = "aura"

    def __init__(self, *failures: ServiceError) -> None:
        self.failures = list(failures)
        self.answers: list[Any] = []
        self.cancelled: list[str] = []

    async def say(self, _text: str, seen: Transcript) -> AsyncGenerator[run_event_pb2.RunEvent]:
        event = run_event_pb2.RunEvent(run_id="s.1", sequence=1, approval_required=asked())
        seen.add(event)
        yield event

    async def answer(self, seen: Transcript, response: Any) -> AsyncGenerator[run_event_pb2.RunEvent]:
        if self.failures:
            raise self.failures.pop(0)
        self.answers.append(response)
        async for event in self.watch(seen):
            yield event

    async def watch(self, seen: Transcript) -> AsyncGenerator[run_event_pb2.RunEvent]:
        event = run_event_pb2.RunEvent(run_id="s.1", sequence=2, completed=run_event_pb2.RunCompleted(answer="done"))
        seen.add(event)
        yield event

    async def cancel(self, run_id: str) -> None:
        self.cancelled.append(run_id)


def a_turn(talk: Talk, *lines: str | type[BaseException]) -> tuple[Transcript, str]:
    """What came of one turn in which somebody types these lines, and what they were shown."""
    left, screen, transcript = list(lines), io.StringIO(), Transcript()
    console = Console(file=screen, width=200)

    def read(_prompt: str) -> str:
        line = left.pop(0)
        if isinstance(line, str):
            return line
        raise line

    console.input = read  # type: ignore[method-assign,assignment]
    with asyncio.Runner() as runner:
        turn(console, runner, talk, "pay", transcript)  # type: ignore[arg-type]
    return transcript, screen.getvalue()


def test_the_answer_to_a_question_is_sent_and_the_run_is_watched_to_its_end() -> None:
    talk = Talk()
    transcript, _ = a_turn(talk, "y")
    assert (transcript.state, talk.answers, talk.cancelled) == ("completed", [run_pb2.Approve()], [])


def test_ctrl_c_at_a_question_stops_the_run() -> None:
    talk = Talk()
    with pytest.raises(KeyboardInterrupt):
        a_turn(talk, KeyboardInterrupt)
    assert (talk.answers, talk.cancelled) == ([], ["s.1"])


def test_ctrl_d_at_a_question_leaves_the_run_as_it_is() -> None:
    talk = Talk()
    with pytest.raises(EOFError):
        a_turn(talk, EOFError)
    assert (talk.answers, talk.cancelled) == ([], [])


def test_a_question_is_asked_again_when_the_answer_did_not_arrive() -> None:
    talk = Talk(Unavailable("no store"))
    transcript, shown = a_turn(talk, "y", "y")
    assert "no store" in shown
    assert (transcript.state, talk.answers) == ("completed", [run_pb2.Approve()])


@pytest.mark.parametrize("late", [RunNotWaiting("answered already"), ApprovalInvalid("too late")])
def test_an_answer_that_comes_too_late_is_said_and_the_run_is_watched_on(late: ServiceError) -> None:
    talk = Talk(late)
    transcript, shown = a_turn(talk, "y")
    assert late.message in shown
    assert (transcript.state, talk.answers) == ("completed", [])
