"""What Triton says when it is full, when a model has died or nobody is there, and how long anybody waits for it."""

import array
import asyncio
import json
import os
import signal
import struct
import time
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.kit.breaker import Breakers, Rules, State
from services.kit.call import Call, enter
from services.kit.clients import Network
from services.kit.errors import DeadlineExceeded, ModelFailed, ModelOverloaded, ModelUnavailable
from services.kit.triton import MODELS, Triton
from tests.support.triton import free_port_pair, running_triton

FULL = "Exceeds maximum queue size"
LATE = "Request timeout expired"
DEAD = "Stub process 'llm_0_0' is not healthy."
FAILED = "internal: lost /secret/file"
REST_S = 0.5
FIRST_S = 0.8


class Scripted(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Fails with these words; None: answers."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.UNAVAILABLE
        self.words: str | None = None
        self.takes_s = 0.0
        self.asked = 0
        self.reply = service_pb2.ModelInferResponse(raw_output_contents=[array.array("f", [1.0]).tobytes()])

    async def ModelInfer(self, request, context):
        self.asked += 1
        await asyncio.sleep(self.takes_s)
        if self.words is not None:
            await context.abort(self.code, self.words)
        return self.reply

    async def ModelStreamInfer(self, requests, context):
        async for _ in requests:
            self.asked += 1
            await asyncio.sleep(self.takes_s)
            if self.words is not None:
                yield service_pb2.ModelStreamInferResponse(error_message=self.words)
                return
            raw = json.dumps({"choices": []}).encode()
            inner = service_pb2.ModelInferResponse(raw_output_contents=[struct.pack("<I", len(raw)) + raw])
            yield service_pb2.ModelStreamInferResponse(infer_response=inner)


class Tier:
    """A scripted tier, and the kit's client of it."""

    def __init__(self, address: str, network: Network) -> None:
        self.scripted = Scripted()
        self.breakers = Breakers(MODELS, Rules(3, REST_S))
        client = network.client("triton", address)
        self.triton = Triton(client, breakers=self.breakers, first_chunk_s=FIRST_S)

    async def embed(self, timeout=2.0):
        return await self.triton.embed(["hello"], timeout)

    async def chat(self, timeout=2.0):
        return [chunk async for chunk in self.triton.chat("llm", {"messages": []}, timeout)]

    def state(self, model):
        return self.breakers.of(model).state


@asynccontextmanager
async def scripted_tier():
    network, server = Network(None), grpc.aio.server()
    address = f"127.0.0.1:{free_port_pair()}"
    tier = Tier(address, network)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(tier.scripted, server)
    server.add_insecure_port(address)
    await server.start()
    yield tier
    await network.close()
    await server.stop(0)


@pytest.mark.parametrize("call", ["embed", "chat"])
@pytest.mark.parametrize("words", [FULL, LATE])
async def test_a_full_queue_is_told_at_once_is_not_asked_again_and_opens_nothing(call, words):
    async with scripted_tier() as tier:
        tier.scripted.words = words
        for _ in range(5):
            with pytest.raises(ModelOverloaded) as full:
                await getattr(tier, call)()
            assert full.value.retry_after == 1.0
        assert tier.scripted.asked == 5
        tier.scripted.words = None
        await getattr(tier, call)()


@pytest.mark.parametrize("call", ["embed", "chat"])
async def test_a_model_whose_process_died_is_unavailable_and_then_left_alone(call):
    async with scripted_tier() as tier:
        tier.scripted.code, tier.scripted.words = grpc.StatusCode.INTERNAL, DEAD
        for _ in range(5):
            with pytest.raises(ModelUnavailable) as away:
                await getattr(tier, call)()
            assert away.value.retry_after is not None
            assert "Stub" not in away.value.message
        assert away.value.metadata == {"circuit": "open"}
        assert tier.scripted.asked == 3
        tier.scripted.words = None
        await asyncio.sleep(REST_S)
        await getattr(tier, call)()
        await getattr(tier, call)()
        assert tier.state("embedder" if call == "embed" else "llm") is State.CLOSED


@pytest.mark.parametrize("call", ["embed", "chat"])
async def test_an_answer_that_is_an_error_takes_the_model_from_nobody(call):
    async with scripted_tier() as tier:
        tier.scripted.code, tier.scripted.words = grpc.StatusCode.INTERNAL, FAILED
        for _ in range(10):
            with pytest.raises(ModelFailed):
                await getattr(tier, call)()
        assert tier.scripted.asked == 10


async def test_one_model_that_is_away_is_no_other():
    async with scripted_tier() as tier:
        tier.scripted.code, tier.scripted.words = grpc.StatusCode.INTERNAL, DEAD
        for _ in range(3):
            with pytest.raises(ModelUnavailable):
                await tier.chat()
        tier.scripted.words = None
        await tier.embed()
        assert (tier.state("llm"), tier.state("embedder")) == (State.OPEN, State.CLOSED)


async def test_a_tier_that_does_not_answer_in_a_fair_time_is_left_alone():
    async with scripted_tier() as tier:
        tier.scripted.takes_s = 3.0
        hurried = await asyncio.gather(*(tier.embed(1.0) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in hurried] == [DeadlineExceeded] * 3
        with pytest.raises(ModelUnavailable):
            await tier.embed(1.0)
        assert tier.scripted.asked == 3


async def test_a_model_that_stays_silent_is_given_up_and_then_left_alone():
    async with scripted_tier() as tier:
        tier.scripted.takes_s = 30.0
        began = time.perf_counter()
        silent = await asyncio.gather(*(tier.chat(60.0) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in silent] == [ModelUnavailable] * 3
        assert FIRST_S * 0.9 < time.perf_counter() - began < FIRST_S + 5.0
        with pytest.raises(ModelUnavailable) as refused:
            await tier.chat(60.0)
        assert tier.scripted.asked == 3
        assert refused.value.metadata == {"circuit": "open"}


async def test_callers_in_a_hurry_do_not_open_a_models_circuit():
    async with scripted_tier() as tier:
        tier.scripted.takes_s = 30.0

        async def hurried():
            enter(Call("test", {}, asyncio.get_running_loop().time() + FIRST_S / 4, "test"))
            await tier.chat(60.0)

        left = await asyncio.gather(*(asyncio.create_task(hurried()) for _ in range(5)), return_exceptions=True)
        assert [type(error) for error in left] == [DeadlineExceeded] * 5
        assert tier.state("llm") is State.CLOSED


async def test_a_model_that_answers_others_meanwhile_is_busy_and_stays_open_to_all():
    async with scripted_tier() as tier:
        tier.scripted.takes_s = 30.0
        waiting = [asyncio.create_task(tier.chat(60.0)) for _ in range(5)]
        await asyncio.sleep(FIRST_S / 2)
        tier.scripted.takes_s = 0.0
        await tier.chat()
        late = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in late] == [ModelUnavailable] * 5
        assert tier.state("llm") is State.CLOSED


@pytest.mark.parametrize(
    ("texts", "tensors", "shape"),
    [
        (1, [], None),
        (1, [b""], None),
        (1, [b"\0\0\0"], None),
        (2, [b"\0" * 4], None),
        (2, [b"\0" * 32], [1, 8]),
        (1, [b"\0" * 16], [1, 384]),
    ],
)
async def test_an_embedder_that_answers_with_no_vectors_has_failed(texts, tensors, shape):
    async with scripted_tier() as tier:
        tier.scripted.reply = service_pb2.ModelInferResponse(raw_output_contents=tensors)
        if shape is not None:
            tier.scripted.reply.outputs.add(name="embedding", datatype="FP32", shape=shape)
        with pytest.raises(ModelFailed, match="no vectors"):
            await tier.triton.embed(["hello"] * texts, 2.0)


def model_process(work: Path, model: str) -> int:
    """The process of Triton that runs `model`, of the Triton that runs in `work`; no other's."""
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            continue
        if str(work) in line and f"/{model}/" in line and "stub" in line:
            return int(folder.name)
    raise AssertionError(f"no process runs {model}")


@pytest.mark.chaos
async def test_when_a_models_process_is_killed_its_callers_are_told_to_come_again(tmp_path):
    network = Network(None)
    async with running_triton(tmp_path, ["embedder"]) as address:
        triton = Triton(network.client("triton", address), breakers=Breakers(MODELS, Rules(3, 60.0)))
        await triton.embed(["hello"], 5.0)
        os.kill(model_process(tmp_path, "embedder"), signal.SIGKILL)
        for _ in range(3):
            with pytest.raises(ModelUnavailable):
                await triton.embed(["hello"], 3.0)
        began = time.perf_counter()
        with pytest.raises(ModelUnavailable):
            await triton.embed(["hello"], 3.0)
        assert time.perf_counter() - began < 0.05
    await network.close()
