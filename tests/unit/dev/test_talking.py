"""The commands that answer a run: what they take, and what is printed to be typed."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from myriad.common.v1 import common_pb2
from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from services.dev import cli, talking
from services.dev.command import Failed, advising, answering
from services.dev.state import Folder
from services.kit.errors import SessionNotFound


def typed(*arguments: str) -> None:
    done = CliRunner().invoke(cli.make_app(), ["--work", "/w", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception


@pytest.mark.parametrize(
    "how", [[], ["--approve", "--deny", "no"], ["--deny", "", "--result", "1"]], ids=["none", "two", "an empty one too"]
)
def test_a_run_is_answered_in_one_way(how: list[str]) -> None:
    with pytest.raises(Failed, match="Say one of"):
        typed("respond", "s.1", "--token", "t", *how)


@pytest.mark.parametrize("result", ["", "{", "a.txt", "[" * 100_000])
def test_a_result_that_is_no_json_is_refused(result: str) -> None:
    with pytest.raises(Failed, match="no JSON"):
        typed("respond", "s.1", "--token", "t", "--result", result)


@pytest.mark.parametrize(
    ("reason", "response"),
    [
        (run_event_pb2.APPROVAL_REASON_SIDE_EFFECT, run_pb2.Approve()),
        (run_event_pb2.APPROVAL_REASON_OUTCOME_UNKNOWN, run_pb2.Approve()),
        (run_event_pb2.APPROVAL_REASON_CLIENT_TOOL, run_pb2.ClientToolResult(result_json="{}")),
    ],
)
@pytest.mark.parametrize("token", ["abc", "-looks-like-an-option", "--approve"])
def test_what_is_printed_to_answer_is_read_as_it_is_meant(
    monkeypatch: pytest.MonkeyPatch, reason: run_event_pb2.ApprovalReason, response: Any, token: str
) -> None:
    asked = run_event_pb2.RunApprovalRequired(call=common_pb2.ToolCall(tool="pay"), approval_token=token, reason=reason)
    seen: list[Any] = []
    monkeypatch.setattr(talking, "running", lambda _folder: None)
    monkeypatch.setattr(talking, "edge_of", lambda *who: who)

    async def respond(_console: object, edge: tuple[Any, ...], *answer: Any, **_options: Any) -> int:
        seen.extend([edge[2:], answer])
        return 0

    monkeypatch.setattr(talking.asking, "respond", respond)
    _, *words = shlex.split(answering(Folder(Path("/w")), "acme", "ann")("s.1", asked))
    typed(*words[2:])
    assert seen == [("acme", "ann"), ("s.1", token, response)]


def test_a_session_that_is_no_option_is_not_to_be_left_out() -> None:
    folder = Folder(Path("/w"))
    with pytest.raises(SessionNotFound), advising(folder, None, None, takes_session=False):
        raise SessionNotFound("no such session")
    with pytest.raises(Failed, match="Leave out --session"), advising(folder, None, None):
        raise SessionNotFound("no such session")
