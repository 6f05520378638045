"""One list of behaviours for the orchestrator's `Model`: scripted in memory, and the adapter on a scripted server.

The server speaks Triton's protocol over a socket. tests/contract/test_triton_models.py has the real models.
"""

import array
import asyncio
import json
import struct
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.kit.clients import Network
from services.kit.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ModelFailed,
    ModelOverloaded,
    ModelUnavailable,
    ServiceError,
)
from services.kit.triton import Triton
from services.orchestrator.adapters.inmemory_services import InMemoryModel
from services.orchestrator.adapters.triton import TritonModel
from services.orchestrator.domain.agent import Message, Role, Tool, ToolCall
from services.orchestrator.domain.turn import Chunk
from services.orchestrator.ports.services import Model
from tests.support.orchestrator import ALICE, act_as
from tests.support.triton import free_port_pair
from tests.support.waiting import until

HELLO = [Message(Role.SYSTEM, "You help."), Message(Role.USER, "hello")]
CALLS = (ToolCall("", "status", '{"id": 7}'), ToolCall("", "weather", "{}"))
ENDLESS = ["on ", 60.0]
ERRORS = {
    InvalidArgument: "invalid_request: too many messages",
    ModelOverloaded: "overloaded: no slot is free",
    ModelFailed: "internal: lost /secret/file",
}


@dataclass
class StubTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Plays a script as the models of triton_repo do: text, seconds, tool calls in pieces, errors by their text."""

    script: Sequence[object] = ()
    bodies: list[dict] = field(default_factory=list)
    stopped: int = 0
    embedded: int = 0
    embed_s: float = 0.0

    async def ModelStreamInfer(self, requests, context):
        try:
            async for request in requests:
                self.bodies.append(json.loads(request.raw_input_contents[0][4:]))
                for step in self.script:
                    if isinstance(step, float):
                        await asyncio.sleep(step)
                    elif isinstance(step, bytes):
                        yield _raw(step)
                    elif isinstance(step, type):
                        yield service_pb2.ModelStreamInferResponse(error_message=ERRORS[step])
                        return
                    else:
                        for delta in _deltas(step):
                            yield _chunk({"choices": [{"index": 0, "delta": delta}]})
                yield _chunk({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}})
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise

    async def ModelInfer(self, request, context):
        try:
            await asyncio.sleep(self.embed_s)
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        self.embedded += 1
        vectors = array.array("f", [0.6, 0.8] * request.inputs[0].shape[0])
        return service_pb2.ModelInferResponse(raw_output_contents=[vectors.tobytes()])


def _chunk(value: dict) -> service_pb2.ModelStreamInferResponse:
    return _raw(json.dumps(value).encode())


def _raw(raw: bytes) -> service_pb2.ModelStreamInferResponse:
    inner = service_pb2.ModelInferResponse(raw_output_contents=[struct.pack("<I", len(raw)) + raw])
    return service_pb2.ModelStreamInferResponse(infer_response=inner)


def _deltas(step: object) -> list[dict]:
    """A text is one piece; each tool call is three, and the calls take turns."""
    if isinstance(step, str):
        return [{"role": "assistant", "content": step}]
    begun = [{"index": n, "id": f"x{n}", "function": {"name": call.tool}} for n, call in enumerate(step)]
    first = [{"index": n, "function": {"arguments": call.arguments_json[:1]}} for n, call in enumerate(step)]
    rest = [{"index": n, "function": {"arguments": call.arguments_json[1:]}} for n, call in enumerate(step)]
    return [{"content": None, "tool_calls": [piece]} for piece in begun + first + rest]


def _of_the_fake(step: object) -> object:
    if isinstance(step, type):
        return step("it is said differently")
    return Chunk(tool_calls=step) if isinstance(step, tuple) else step


@dataclass
class World:
    """A model, what it plays next, and how many answers were left before their end."""

    model: Model
    play: Callable[[Sequence[object]], None]
    stopped: Callable[[], int]

    def chat(self, messages=HELLO, tools=()):
        return self.model.chat("llm", messages, tools, 64, 0.0)

    async def answer(self, into: list[Chunk]) -> None:
        async for chunk in self.chat():
            into.append(chunk)


@pytest.fixture
async def stub():
    """A scripted server, and the kit's client of it."""
    servicer, server, network = StubTriton(), grpc.aio.server(), Network(None)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{free_port_pair()}"
    server.add_insecure_port(address)
    await server.start()
    act_as(ALICE)
    yield servicer, Triton(network.client("triton", address))
    await network.close()
    await server.stop(0)


@pytest.fixture(params=["inmemory", "triton"])
def world(request) -> World:
    if request.param == "inmemory":
        fake = InMemoryModel()

        def play_here(script):
            fake.scripts = [[_of_the_fake(step) for step in script]]

        return World(fake, play_here, lambda: fake.stopped)
    servicer, triton = request.getfixturevalue("stub")
    return World(TritonModel(triton), lambda script: setattr(servicer, "script", script), lambda: servicer.stopped)


def text_of(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("error", list(ERRORS))
async def test_a_model_that_cannot_answer_says_why(world, error):
    world.play([error])
    chunks: list[Chunk] = []
    with pytest.raises(ServiceError) as caught:
        await world.answer(chunks)
    assert type(caught.value) is error
    assert chunks == []
    assert "/secret" not in caught.value.message


async def test_a_model_that_breaks_in_the_middle_has_given_what_came_before(world):
    world.play(["One, ", "two", ModelFailed])
    chunks: list[Chunk] = []
    with pytest.raises(ModelFailed):
        await world.answer(chunks)
    assert text_of(chunks) == "One, two"


async def test_an_answer_comes_in_its_pieces_and_in_order(world):
    pieces = [f"piece {n} 👍 " for n in range(200)]
    world.play(pieces)
    chunks: list[Chunk] = []
    await world.answer(chunks)
    assert [chunk.text for chunk in chunks if chunk.text] == pieces
    assert not any(chunk.tool_calls for chunk in chunks)


async def test_a_piece_is_shown_before_the_next_is_made(world):
    world.play(ENDLESS)
    async with aclosing(world.chat()) as answer:
        assert (await asyncio.wait_for(anext(answer), 10)).text == "on "


async def test_what_was_used_is_told_once(world):
    world.play(["Hello."])
    chunks: list[Chunk] = []
    await world.answer(chunks)
    used = [(chunk.prompt_tokens, chunk.completion_tokens) for chunk in chunks if chunk.prompt_tokens]
    assert used == [(10, 5)]


async def test_tool_calls_come_whole_and_in_order(world):
    world.play(["Let me see. ", CALLS])
    chunks: list[Chunk] = []
    await world.answer(chunks)
    assert [chunk.tool_calls for chunk in chunks if chunk.tool_calls] == [CALLS]
    assert text_of(chunks) == "Let me see. "


async def test_leaving_the_iteration_stops_the_model(world):
    world.play(ENDLESS)
    async with aclosing(world.chat()) as answer:
        await anext(answer)
    await until(lambda: world.stopped() == 1)


async def test_cancelling_who_waits_stops_the_model(world):
    world.play(ENDLESS)
    chunks: list[Chunk] = []
    asking = asyncio.create_task(world.answer(chunks))
    await until(lambda: chunks)
    assert world.stopped() == 0
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: world.stopped() == 1)


async def test_an_answer_that_ended_was_not_stopped(world):
    world.play(["Hello."])
    await world.answer([])
    await asyncio.sleep(0.05)
    assert world.stopped() == 0


async def test_the_model_is_asked_in_its_own_form(stub):
    servicer, triton = stub
    call = ToolCall("call_0_0", "status", '{"id": 7}')
    said = [*HELLO, Message(Role.ASSISTANT, "", (call,)), Message(Role.TOOL, "{}", tool_call_id="call_0_0")]
    async for _ in TritonModel(triton).chat("llm", said, (Tool("status", "Looks it up.", {}, 5.0),), 64, 0.5):
        pass
    async for _ in TritonModel(triton, 0.05).chat("llm", HELLO, (), 64, 0.5):
        pass
    function = {"name": "status", "arguments": '{"id": 7}'}
    offered = {"name": "status", "description": "Looks it up.", "parameters": {"type": "object"}}
    body, bare = servicer.bodies
    assert body == {
        "messages": [
            {"role": "system", "content": "You help."},
            {"role": "user", "content": "hello"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_0_0", "type": "function", "function": function}],
            },
            {"role": "tool", "content": "{}", "tool_call_id": "call_0_0"},
        ],
        "max_tokens": 64,
        "temperature": 0.5,
        "tools": [{"type": "function", "function": offered}],
    }
    assert bare == {"messages": body["messages"][:2], "max_tokens": 64, "temperature": 0.5, "chunk_interval_ms": 50}


async def test_the_fake_keeps_what_it_was_asked():
    fake = InMemoryModel([["One."], ["Two."]])
    for expected in ("One.", "Two.", "Two."):
        tools = (Tool("status", "Looks it up.", {}, 5.0),)
        assert text_of([chunk async for chunk in fake.chat("llm", HELLO, tools, 64, 0.0)]) == expected
    assert fake.asked == [HELLO] * 3
    assert fake.offered == [("status",)] * 3


async def test_a_tier_that_nobody_serves_is_unavailable():
    network = Network(None)
    act_as(ALICE)
    dead = TritonModel(Triton(network.client("triton", f"127.0.0.1:{free_port_pair()}")))
    with pytest.raises(ModelUnavailable) as caught:
        await anext(dead.chat("llm", HELLO, (), 64, 0.0))
    assert caught.value.retry_after == 1.0
    await network.close()


async def test_a_model_that_takes_longer_than_the_run_may_is_given_up(stub):
    servicer, triton = stub
    servicer.script = ENDLESS
    act_as(ALICE, seconds=0.2)
    chunks: list[Chunk] = []
    with pytest.raises(DeadlineExceeded):
        await World(TritonModel(triton), print, int).answer(chunks)
    assert text_of(chunks) == "on "
    await until(lambda: servicer.stopped == 1)


async def test_texts_are_embedded_each_to_a_vector(stub):
    _, triton = stub
    vectors = await triton.embed(["one", "two"], 1.0)
    assert [[round(number, 6) for number in vector] for vector in vectors] == [[0.6, 0.8]] * 2


async def test_an_embedding_is_not_cut_when_its_caller_leaves(stub):
    servicer, triton = stub
    servicer.embed_s = 0.5
    asking = asyncio.create_task(triton.embed(["hello"], 5.0))
    await asyncio.sleep(0.1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: servicer.embedded == 1)
    assert servicer.stopped == 0


async def test_an_embedding_that_takes_too_long_is_given_up(stub):
    servicer, triton = stub
    servicer.embed_s = 5.0
    with pytest.raises(DeadlineExceeded):
        await triton.embed(["hello"], 0.1)


NO_ANSWERS = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"7",
    b'{"choices": 7}',
    b'{"choices": ["x"]}',
    b'{"choices": [{"delta": []}, {"delta": "x"}]}',
    b'{"choices": [{"delta": {"content": 7}}]}',
    b'{"choices": [{"delta": {"content": "\\ud800"}}]}',
    b'{"choices": [{"delta": {"tool_calls": ["x"]}}]}',
    b'{"choices": [{"delta": {"tool_calls": [{"index": []}]}}]}',
    b'{"choices": [{"delta": {"tool_calls": [{"function": "x"}]}}]}',
    b'{"choices": [], "usage": "none"}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("chunk", NO_ANSWERS, ids=lambda chunk: repr(chunk[:60]))
async def test_what_is_no_answer_is_a_failure_of_the_model(stub, chunk):
    servicer, triton = stub
    model = TritonModel(triton)
    servicer.script = ["So. ", chunk]
    with pytest.raises(ModelFailed):
        async with aclosing(model.chat("llm", HELLO, (), 64, 0.0)) as chunks:
            async for _ in chunks:
                pass


async def test_odd_answers_are_read_as_far_as_they_go(stub):
    servicer, triton = stub
    model = TritonModel(triton)
    calls = [
        {"index": 0, "function": {"name": 7, "arguments": {"id": 7}}},
        {"index": 1, "function": {"arguments": "{}"}},
        {"index": 2, "function": {"name": "long", "arguments": "x" * 1_000_000}},
        {"index": 3},
        *({"index": index} for index in range(4, 1_000)),
    ]
    odd = {"choices": [{"delta": {"tool_calls": calls}}], "usage": {"prompt_tokens": -1, "completion_tokens": 2**62}}
    servicer.script = [b"{}", b'{"choices": null}', b'{"choices": [{"delta": null}]}', json.dumps(odd).encode()]
    found = [chunk async for chunk in model.chat("llm", HELLO, (), 64, 0.0)]
    (asked,) = [chunk.tool_calls for chunk in found if chunk.tool_calls]
    assert asked[:2] == (ToolCall("", "7", '{"id": 7}'), ToolCall("", "", "{}"))
    assert len(asked[2].arguments_json) == 65_536
    assert len(asked) == 64
    assert (found[0].prompt_tokens, found[0].completion_tokens) == (0, 10_000_000)
