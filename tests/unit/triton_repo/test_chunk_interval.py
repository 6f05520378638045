"""Text that comes sooner after a chunk than the caller wants it goes with what comes next; none of it is lost."""

import itertools
import json
from types import ModuleType
from typing import Any

import pytest

from tests.support.model_files import loaded


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded(monkeypatch, "sim_llm", "script")


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded(monkeypatch, "llm", "reply")


def asked(interval: Any = None, **script: Any) -> bytes:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": f"#sim {json.dumps(script)}"}]}
    return json.dumps(body if interval is None else body | {"chunk_interval_ms": interval}).encode()


def played(sim: ModuleType, raw: bytes) -> list[tuple[float, Any]]:
    """Milliseconds before each step, and its text, its error, or why it was the last."""
    steps, _ = sim.read(raw, 1)
    return [(round(step.wait_s * 1000), step.error or said(step.chunk)) for step in itertools.islice(steps, 100)]


def said(chunk: str) -> str:
    """The text of a chunk; of a last one, what it ends for as well."""
    (choice,) = json.loads(chunk)["choices"]
    return str(choice["delta"].get("content", "") + (choice["finish_reason"] or ""))


@pytest.mark.parametrize("interval", [-1, 1001, "soon", None, []])
def test_no_such_interval_is_played(sim: ModuleType, interval: Any) -> None:
    body = json.loads(asked(tokens=1)) | {"chunk_interval_ms": interval}
    with pytest.raises(sim.BadRequest, match="chunk_interval_ms"):
        sim.read(json.dumps(body).encode(), 1)


def test_a_script_is_played_delta_by_delta_unless_asked_otherwise(sim: ModuleType) -> None:
    script = {"deltas": ["a", "b", "c"], "first_ms": 60, "delay_ms": 20}
    assert played(sim, asked(**script)) == [(60, "a"), (20, "b"), (20, "c"), (0, "stop")]


def test_the_first_comes_at_once_and_later_ones_in_the_interval(sim: ModuleType) -> None:
    script = {"deltas": list("abcdefgh"), "first_ms": 60, "delay_ms": 20}
    assert played(sim, asked(50, **script)) == [(60, "a"), (60, "bcd"), (60, "efg"), (20, "hstop")]


def test_what_waits_comes_before_an_error(sim: ModuleType) -> None:
    script = {"deltas": ["a", "b"], "error": "it broke", "error_after": 2, "delay_ms": 20}
    assert played(sim, asked(50, **script)) == [(0, "a"), (40, "b"), (0, "it broke")]


def test_tokens_are_counted_and_limited_as_if_each_had_come_alone(sim: ModuleType) -> None:
    body = json.loads(asked(50, tokens=9)) | {"max_tokens": 4}
    steps = list(sim.read(json.dumps(body).encode(), 1)[0])
    assert "".join(said(step.chunk) for step in steps) == "word0 word1 word2 word3 length"
    assert json.loads(steps[-1].chunk)["usage"]["completion_tokens"] == 4


def test_an_endless_script_without_delays_says_something_all_the_same(sim: ModuleType) -> None:
    assert len(played(sim, asked(50, deltas=["on "], forever=True, delay_ms=0))) == 100


class Clock:
    """Seconds, by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def content(text: str) -> str:
    return json.dumps({"id": "1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


def ending() -> list[str]:
    stopped = {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return [json.dumps(stopped), json.dumps({"id": "1", "choices": [], "usage": {"completion_tokens": 3}})]


def answered(llm: ModuleType, interval_s: float) -> list[list[str]]:
    """What leaves for each of five tokens, 20 ms apart, and at the end."""
    clock = Clock()
    chat = type("Chat", (), {"tools": (), "must_call": False, "json_answer": None, "interval_s": interval_s})()
    reply, sent = llm.Reply(chat, clock), []
    for text in "abcde":
        sent.append([said(chunk) for chunk in reply.feed(content(text))])
        clock.now += 0.02
    left = [chunk for raw in ending() for chunk in reply.feed(raw)]
    assert json.loads(left[-1])["usage"] == {"completion_tokens": 3}
    return [*sent, [said(chunk) for chunk in left]]


def test_the_model_says_token_by_token_unless_asked_otherwise(llm: ModuleType) -> None:
    assert answered(llm, 0.0) == [["a"], ["b"], ["c"], ["d"], ["e"], ["stop"]]


def test_the_model_gathers_tokens_that_come_in_the_interval(llm: ModuleType) -> None:
    assert answered(llm, 0.05) == [["a"], [], [], ["bcd"], [], ["estop"]]
