"""A really running Triton, and the few calls that tests make of it."""

import asyncio
import contextlib
import glob
import json
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.dev.engines import triton
from tests.support.metrics import metrics_at
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
START_S = 120.0
LEAVE_S = 0.1
QUIET_S = 0.005

Answer = list[dict[str, Any]]


class ModelError(Exception):
    """A stream ended with an error; the text is the model's."""


class NotServing(Exception):
    """Triton did not come up."""


@contextlib.asynccontextmanager
async def running_triton(work: Path, models: Sequence[str]) -> AsyncIterator[str]:
    """Runs a Triton with `models` of triton_repo; yields its gRPC address, host:port. Metrics are one port above.

    Raises:
        NotServing: it does not serve in time, or has ended. The end of its output is in the text.
    """
    port = free_port_pair()
    launch = triton.launch(
        python=ROOT / ".venv-triton" / "bin" / "python",
        repository=ROOT / "triton_repo",
        work=work,
        grpc_port=port,
        metrics_port=port + 1,
        models=models,
    )
    address = f"127.0.0.1:{port}"
    output = work / "triton.log"
    with output.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *launch.argv,
            env=os.environ | dict(launch.env),
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        try:
            await _until_serving(process, address)
        except (NotServing, TimeoutError) as error:
            raise NotServing(f"{error!r}\n{output.read_text(errors='replace')[-4000:]}") from None
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        _remove(launch.leaves)


def _remove(pattern: str) -> None:
    for left in glob.glob(pattern):
        Path(left).unlink(missing_ok=True)


async def _until_serving(process: asyncio.subprocess.Process, address: str) -> None:
    """Returns when Triton serves; fails at once when it ends instead."""
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(START_S):
        health = health_pb2_grpc.HealthStub(channel)
        while process.returncode is None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=2, wait_for_ready=True)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(0.1)
    raise NotServing("the server ended")


def free_port_pair() -> int:
    """A port that is free, as the next one is: Triton's gRPC and its metrics."""
    return free_port(beside=1)


async def metric(address: str, name: str) -> float:
    """Returns a metric's value now: the sum over its label sets."""
    host, port = address.rsplit(":", 1)
    return (await metrics_at(f"{host}:{int(port) + 1}")).sum(name)


async def embed(channel: grpc.aio.Channel, texts: Sequence[str | bytes]) -> np.ndarray:
    """Returns FP32 [len(texts), 384].

    Raises:
        grpc.aio.AioRpcError: Triton refused.
    """
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    request = service_pb2.ModelInferRequest(model_name="embedder", raw_input_contents=[_bytes_tensor(raw)])
    request.inputs.add(name="text", datatype="BYTES", shape=[len(raw), 1])
    reply = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    return np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(tuple(reply.outputs[0].shape))


async def stream(
    channel: grpc.aio.Channel, model: str, body: dict[str, Any] | bytes, timeout: float = 60
) -> AsyncGenerator[dict[str, Any], None]:
    """Yields the chunks of one generation. Closing the iterator cancels it.

    Raises:
        ModelError: the model answered with an error.
    """
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[_bytes_tensor([raw])])
    request.inputs.add(name="request", datatype="BYTES", shape=[1])
    call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(_once(request), timeout=timeout)
    failure = ""
    try:
        while (reply := await call.read()) is not grpc.aio.EOF:
            failure = failure or reply.error_message
            if reply.infer_response.raw_output_contents:
                yield json.loads(reply.infer_response.raw_output_contents[0][4:])
    finally:
        await _leave(call)
    if failure:
        raise ModelError(failure)


async def _leave(call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
    """Cancels a stream in a gap between its responses, or sees it end.

    Triton 2.51 crashes when a stream is cancelled while several of its responses wait to be written, and never frees
    one that is cancelled when its last response is under way. So what is under way is read first.
    """
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError, TimeoutError):
        async with asyncio.timeout(LEAVE_S):
            while not call.done() and await asyncio.wait_for(call.read(), QUIET_S) is not grpc.aio.EOF:
                pass
    call.cancel()


async def collect(channel: grpc.aio.Channel, model: str, body: dict[str, Any] | bytes, timeout: float = 60) -> Answer:
    """Returns all chunks of one generation; raises as `stream` does."""
    return [chunk async for chunk in stream(channel, model, body, timeout)]


def text_of(answer: Answer) -> str:
    """Returns the text that an answer's deltas make."""
    return "".join(choice["delta"].get("content") or "" for chunk in answer for choice in chunk["choices"])


def calls_of(answer: Answer) -> list[dict[str, Any]]:
    """Returns the tool calls in an answer."""
    return [call for chunk in answer for choice in chunk["choices"] for call in choice["delta"].get("tool_calls", [])]


def _once(request: service_pb2.ModelInferRequest) -> Iterator[service_pb2.ModelInferRequest]:
    yield request


def _bytes_tensor(items: Sequence[bytes]) -> bytes:
    """Serialises a BYTES tensor: each item after its length, as a little-endian uint32."""
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)
