"""Milvus servers for tests, started by the launcher's own engine."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from services.dev.engines.milvus import launch
from tests.support.ports import free_port

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryMultiCallable

_START_S = 20.0
_READY = "/milvus.proto.milvus.MilvusService/ShowCollections"


@contextlib.asynccontextmanager
async def running_milvus(work: Path, *, port: int = 0) -> AsyncIterator[str]:
    """One server; its URI.

    Args:
        work: Folder for its data and its output; made when it is not there.
        port: Where to listen; 0: a free one.
    """
    port = port or free_port()
    process = await start_milvus(work, port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await stop(process)


async def start_milvus(work: Path, port: int) -> asyncio.subprocess.Process:
    """A server that answers. The caller stops it."""
    await asyncio.to_thread(work.mkdir, parents=True, exist_ok=True)
    started = launch(work=work, port=port)
    with (work / "milvus.log").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *started.argv, env=os.environ | dict(started.env), stdout=output, stderr=output
        )
    try:
        async with asyncio.timeout(_START_S):
            while not await _answers(port):
                if process.returncode is not None:
                    raise RuntimeError("the server ended: see milvus.log")
                await asyncio.sleep(0.05)
    except BaseException:
        await stop(process)
        raise
    return process


async def stop(process: asyncio.subprocess.Process) -> None:
    """Kills a server: tests keep nothing."""
    if process.returncode is None:
        process.kill()
    await process.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            call: UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_READY)
            await call(b"", timeout=2)
        except grpc.aio.AioRpcError:
            return False
    return True
