"""The models of triton_repo behind a running Triton: what every caller may rely on."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import jsonschema_rs
import numpy as np
import pytest
import pytest_asyncio

from tests.support import triton
from tests.support.triton import calls_of, collect, embed, metric, stream, text_of

# The first test waits for the models to load.
pytestmark = pytest.mark.timeout(180)

LLM_BUSY = "myriad_llm_busy_slots"
SIM_RUNNING = "myriad_sim_running"

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Rome"]}, "unit": {"$ref": "#/$defs/unit"}},
                "required": ["city", "unit"],
                "$defs": {"unit": {"enum": ["celsius", "fahrenheit"]}},
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "Tells the time"}},
]


@pytest.fixture
def address(triton_address: str) -> str:
    return triton_address


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def channel(triton_address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(triton_address) as opened:
        yield opened


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24, **fields}


def played(script: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Hello.\n#sim {json.dumps(script)}"}], **fields}


async def falls_to_zero(address: str, name: str, within_s: float) -> float:
    """Waits until a metric is zero; returns the seconds it took."""
    start = time.monotonic()
    while await metric(address, name):
        assert time.monotonic() - start < within_s, f"{name} is still {await metric(address, name)}"
        await asyncio.sleep(0.005)
    return time.monotonic() - start


async def rises(address: str, name: str) -> None:
    async with asyncio.timeout(10):
        while not await metric(address, name):  # noqa: ASYNC110 - another process's metric sets no event here
            await asyncio.sleep(0.005)


async def test_embeddings_are_unit_vectors_of_384(channel: grpc.aio.Channel) -> None:
    vectors = await embed(channel, ["Where is my invoice?", "Hi", "a " * 600])
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


async def test_similar_texts_are_closer_than_different_ones(channel: grpc.aio.Channel) -> None:
    one, same, other = await embed(channel, ["Cancel my order", "I want to call off my purchase", "It rains in Rome"])
    assert one @ same > one @ other + 0.2


async def test_a_vector_does_not_depend_on_its_batch(channel: grpc.aio.Channel) -> None:
    texts = [f"Question {index} about " + "billing " * (index % 9) for index in range(40)]
    together = await embed(channel, texts)
    singles = np.concatenate(await asyncio.gather(*(embed(channel, [text]) for text in texts)))
    # What becomes int8 is scaled row by row, a token each, not batch by batch: one scale for all differs by 0.04.
    np.testing.assert_allclose(together, singles, atol=1e-4)


@pytest.mark.parametrize("bad", ["", " \n", b"\xff\xfe"])
async def test_a_text_that_is_none_fails_alone(channel: grpc.aio.Channel, bad: str | bytes) -> None:
    good = asyncio.ensure_future(embed(channel, ["fine"]))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await embed(channel, ["fine", bad])
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "text[1]" in (failed.value.details() or "")
    assert (await good).shape == (1, 384)


async def test_only_the_models_asked_for_can_be_reached_and_none_be_loaded(channel: grpc.aio.Channel) -> None:
    load: Any = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await load(b"\x12\x08embedder", timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_llm_streams_an_answer_and_ends_it_with_usage(channel: grpc.aio.Channel) -> None:
    answer = await collect(channel, "llm", asked("What is the capital of France?"))
    assert answer[0]["choices"][0]["delta"]["role"] == "assistant"
    assert len(answer) > 5
    assert text_of(answer)
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in answer)
    assert [chunk["choices"][0]["finish_reason"] for chunk in answer[:-1]] == [None] * (len(answer) - 1)
    assert answer[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    usage = answer[-1]["usage"]
    assert usage["prompt_tokens"] > 5
    assert 1 <= usage["completion_tokens"] <= 24


@pytest.mark.parametrize("model", ["llm", "sim_llm"])
async def test_text_that_comes_soon_goes_with_the_text_after_it(channel: grpc.aio.Channel, model: str) -> None:
    request = asked('Count from one to twenty.\n#sim {"tokens": 20, "delay_ms": 5}')
    alone = await collect(channel, model, request)
    gathered = await collect(channel, model, request | {"chunk_interval_ms": 1000})
    assert len(gathered) < len(alone) / 2
    assert text_of(gathered) == text_of(alone)
    assert gathered[-1]["usage"]["completion_tokens"] == alone[-1]["usage"]["completion_tokens"]


async def test_llm_knows_a_whole_history(channel: grpc.aio.Channel) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    history = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "What time is it?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "Noon"},
    ]
    request = {"messages": history, "max_tokens": 8, "stop": ["\n"], "seed": 7, "tools": TOOLS}
    answer = await collect(channel, "llm", request)
    assert answer[-1]["usage"]["prompt_tokens"] > 100


async def test_llm_continues_an_answer_that_was_begun(channel: grpc.aio.Channel) -> None:
    begun = asked("Count to nine.")
    begun["messages"].append({"role": "assistant", "content": "One, two, three,"})
    assert "four" in text_of(await collect(channel, "llm", begun))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
        {"enum": ["red", "green"]},
        {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2, "maxItems": 3},
        {
            "type": "object",
            "properties": {"kind": {"$ref": "#/$defs/kind"}, "note": {"type": "string", "maxLength": 10}},
            "required": ["kind", "note"],
            "$defs": {"kind": {"enum": ["a", "b"]}},
        },
        {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-z]{2}-[0-9]{3}$"}]},
    ],
    ids=["object", "enum", "array", "ref", "pattern"],
)
async def test_constrained_output_validates(channel: grpc.aio.Channel, schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = await collect(channel, "llm", asked("Give me some JSON.", response_format=wanted, max_tokens=200))
    assert answer[-1]["choices"][0]["finish_reason"] == "stop"
    jsonschema_rs.validator_for(schema).validate(json.loads(text_of(answer)))


async def test_a_bound_that_no_answer_reaches_costs_nothing(channel: grpc.aio.Channel) -> None:
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 10**9}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = await collect(channel, "llm", asked("Give me some JSON.", response_format=wanted, max_tokens=8))
    assert text_of(answer).startswith(("[true", "[false"))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_forced_tool_call_is_a_valid_call(channel: grpc.aio.Channel, choice: str | dict[str, Any]) -> None:
    request = asked("What is the weather in Paris?", tools=TOOLS, tool_choice=choice, max_tokens=100)
    answer = await collect(channel, "llm", request)
    assert answer[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert not text_of(answer)
    (call,) = calls_of(answer)
    assert call["id"] and call["type"] == "function" and call["index"] == 0
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in TOOLS}
    jsonschema_rs.validator_for(schemas[call["function"]["name"]]).validate(json.loads(call["function"]["arguments"]))


async def test_with_tools_to_choose_from_the_model_may_answer_in_words(channel: grpc.aio.Channel) -> None:
    answer = await collect(channel, "llm", asked("Hello, how are you?", tools=TOOLS))
    assert bool(text_of(answer)) != bool(calls_of(answer))


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ('{"summary": "Order 1007 is on its way with Swift Post.", "status": "shipped"}', "Swift Post"),
        ('{"result": 36}', "36"),
        ('{"error": "a person must approve the refund first"}', "approve"),
    ],
)
async def test_a_tools_result_is_what_the_model_answers_with(channel: grpc.aio.Channel, result: str, said: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "order_status", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "You are a helper of a shop. Answer in one or two short sentences."},
        {"role": "user", "content": "What about my order?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": result},
    ]
    answer = await collect(channel, "llm", {"messages": messages, "max_tokens": 60, "temperature": 0})
    assert said in text_of(answer)


async def test_half_a_tool_call_is_none(channel: grpc.aio.Channel) -> None:
    answer = await collect(channel, "llm", asked("Weather in Rome?", tools=TOOLS, tool_choice="required", max_tokens=4))
    assert answer[-1]["choices"][0]["finish_reason"] == "length"
    assert not calls_of(answer) and not text_of(answer)


@pytest.mark.alone
@pytest.mark.parametrize("where", ["answer", "prompt"])
async def test_cancelling_frees_the_slot(address: str, channel: grpc.aio.Channel, where: str) -> None:
    await falls_to_zero(address, LLM_BUSY, 5)
    long = asked(f"{where} " * (2000 if where == "prompt" else 1) + "Tell me a very long story.", max_tokens=3000)
    generation = stream(channel, "llm", long)
    first = asyncio.ensure_future(anext(generation))
    await rises(address, LLM_BUSY)
    if where == "answer":
        await first
    else:
        await asyncio.sleep(0.3)
        assert not first.done(), "the prompt was too short for this test"
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
    await generation.aclose()
    await falls_to_zero(address, LLM_BUSY, 0.5)
    counted = await metric(address, "myriad_llm_generated_tokens")
    await asyncio.sleep(0.3)
    assert await metric(address, "myriad_llm_generated_tokens") == counted


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "request"),
        (b"[]", "request"),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        (asked("hi", temperature="hot"), "temperature"),
        (asked("hi", max_tokens=0), "max_tokens"),
        (asked("hi", stop=[1]), "stop"),
        (asked("hi", seed="x"), "seed"),
        (asked("hi", n=2), "n"),
        (asked("hi", response_format={"type": "yaml"}), "response_format.type"),
        (
            asked("hi", response_format={"type": "json_schema", "json_schema": {"schema": {"type": "zork"}}}),
            "response_format.json_schema.schema",
        ),
        (asked("hi", tools=[{"function": {"name": "a b"}}]), "tools[0].function.name"),
        (
            asked("hi", tools=[{"function": {"name": "a", "parameters": {"type": "array", "minItems": 10**9}}}]),
            "tools[0].function.parameters",
        ),
        (asked("hi", tools=TOOLS, tool_choice={"function": {"name": "nope"}}), "tool_choice"),
        (asked("too long " * 3000), "messages"),
    ],
)
async def test_a_bad_body_is_an_error_that_names_the_field(channel: grpc.aio.Channel, body: Any, field: str) -> None:
    with pytest.raises(triton.ModelError) as failed:
        await collect(channel, "llm", body)
    assert str(failed.value).startswith(f"invalid_request: {field}: ")
    assert await collect(channel, "llm", asked("Still there?", max_tokens=1))


async def test_eight_generations_run_at_once(channel: grpc.aio.Channel) -> None:
    bodies = [asked(f"Tell me {index} things.", max_tokens=12) for index in range(8)]
    answers = await asyncio.gather(*(collect(channel, "llm", body) for body in bodies))
    assert all(answer[-1]["usage"]["completion_tokens"] for answer in answers)


async def test_sim_answers_without_a_script(channel: grpc.aio.Channel) -> None:
    answer = await collect(channel, "sim_llm", {"messages": [{"role": "user", "content": "Hi"}] * 3})
    assert "3 messages" in text_of(answer)
    assert len(answer) == 5
    assert answer[-1]["choices"][0]["finish_reason"] == "stop"
    assert answer[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.mark.parametrize(
    ("script", "text", "reason"),
    [
        ({"deltas": ["Hel", "lo"]}, "Hello", "stop"),
        ({"text": "Hello"}, "Hello", "stop"),
        ({"tokens": 3}, "word0 word1 word2 ", "stop"),
        ({"deltas": []}, "", "stop"),
        ({"text": "x", "finish_reason": "content_filter"}, "x", "content_filter"),
        ({"tokens": 2, "delay_ms": 5, "first_ms": 5}, "word0 word1 ", "stop"),
    ],
)
async def test_sim_plays_text(channel: grpc.aio.Channel, script: dict[str, Any], text: str, reason: str) -> None:
    answer = await collect(channel, "sim_llm", played(script))
    assert text_of(answer) == text
    assert answer[-1]["choices"][0]["finish_reason"] == reason


async def test_sim_keeps_to_max_tokens(channel: grpc.aio.Channel) -> None:
    answer = await collect(channel, "sim_llm", played({"tokens": 9}, max_tokens=2))
    assert text_of(answer) == "word0 word1 "
    assert answer[-1]["choices"][0]["finish_reason"] == "length"


async def test_sim_overrides_the_usage(channel: grpc.aio.Channel) -> None:
    answer = await collect(channel, "sim_llm", played({"text": "x", "usage": {"prompt_tokens": 900}}))
    assert answer[-1]["usage"]["prompt_tokens"] == 900
    assert answer[-1]["usage"]["completion_tokens"] == 1


async def test_sim_calls_tools_and_goes_on_with_then(channel: grpc.aio.Channel) -> None:
    script = {
        "tool_calls": [{"name": "now", "arguments": {"zone": "UTC"}}, {"name": "broken", "arguments": '{"a'}],
        "then": {"tool_calls": [{"name": "again"}], "then": {"text": "Noon."}},
    }
    request = played(script)
    answer = await collect(channel, "sim_llm", request)
    calls = calls_of(answer)
    assert answer[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert [call["function"]["arguments"] for call in calls] == ['{"zone": "UTC"}', '{"a']
    assert [call["index"] for call in calls] == [0, 1]
    seen = {call["id"] for call in calls}
    for expected in ("again", None):
        request["messages"].append({"role": "assistant", "content": None, "tool_calls": calls})
        request["messages"] += [{"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in calls]
        answer = await collect(channel, "sim_llm", request)
        calls = calls_of(answer)
        assert [call["function"]["name"] for call in calls] == ([expected] if expected else [])
        assert not seen & {call["id"] for call in calls}
    assert text_of(answer) == "Noon."


@pytest.mark.parametrize(
    ("script", "before"), [({"error": "boom"}, 0), ({"error": "boom", "error_after": 2, "tokens": 9}, 2)]
)
async def test_sim_fails_as_told(channel: grpc.aio.Channel, script: dict[str, Any], before: int) -> None:
    seen = []
    with pytest.raises(triton.ModelError, match=r"^boom$"):
        async for chunk in stream(channel, "sim_llm", played(script)):
            seen.append(chunk)
    assert len(seen) == before


async def test_sim_echoes_what_it_was_given(channel: grpc.aio.Channel) -> None:
    request = played({"echo": True})
    request["messages"].insert(0, {"role": "system", "content": "Be kind."})
    assert json.loads(text_of(await collect(channel, "sim_llm", request))) == request["messages"]


async def test_sim_keeps_time(channel: grpc.aio.Channel) -> None:
    firsts, lasts = [], []
    for _ in range(3):  # a machine at work is late now and then, and never early
        start = time.monotonic()
        times = []
        async for _ in stream(channel, "sim_llm", played({"tokens": 5, "first_ms": 150, "delay_ms": 50})):
            times.append(time.monotonic() - start)
        firsts.append(times[0])
        lasts.append(times[-1])
    assert 0.15 <= min(firsts) < 0.3
    assert 0.35 <= min(lasts) < 0.6


async def test_cancelling_stops_a_script(address: str, channel: grpc.aio.Channel) -> None:
    cancelled = await metric(address, "myriad_sim_cancelled")
    generation = stream(channel, "sim_llm", played({"forever": True, "delay_ms": 1000}))
    await anext(generation)
    assert await metric(address, SIM_RUNNING) == 1
    await generation.aclose()
    await falls_to_zero(address, SIM_RUNNING, 0.2)
    assert await metric(address, "myriad_sim_cancelled") == cancelled + 1


@pytest.mark.parametrize("line", ["#sim {", "#sim 3", '#sim {"delatys": []}', '#sim {"tokens": "3"}'])
async def test_a_bad_script_is_an_error(channel: grpc.aio.Channel, line: str) -> None:
    with pytest.raises(triton.ModelError, match=r"^invalid_request: messages\[0\]\.content: "):
        await collect(channel, "sim_llm", {"messages": [{"role": "user", "content": line}]})
