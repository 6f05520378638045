"""A bare grpc.aio server in a process of its own: what a call costs that does nothing. No kit, no interceptor."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

_PATH = "/bench.Echo/Unary"
_BODY = b"x" * 64
_TIMEOUT_S = 30.0


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[int, Callable[[int, int], Awaitable[bool]]]]:
    """Runs the server in a session of its own; gives its process id and a call of it."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert server.stdout is not None
    port = int(await server.stdout.readline())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary(_PATH)

            async def call(_worker: int, _index: int) -> bool:
                return bool(await method(_BODY, timeout=_TIMEOUT_S) == _BODY)

            yield server.pid, call
    finally:
        server.terminate()
        await server.wait()


async def _serve() -> None:
    async def echo(body: bytes, _context: object) -> bytes:
        return body

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Unary": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
