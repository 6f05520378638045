"""A Triton that embeds by hashing words and plays `#sim` scripts, within this process.

It keeps what callers sent along, for tests that look for what must not be there.
"""

import asyncio
import importlib.util
import itertools
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.retrieval.adapters.inmemory import InMemoryEmbedder

_SCRIPT = Path(__file__).parents[2] / "triton_repo" / "sim_llm" / "1" / "script.py"
_DIMENSION = 384


class ScriptedTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers for the models `embedder` and `sim_llm`."""

    def __init__(self) -> None:
        self.metadata: list[tuple[str, str]] = []
        """Of every call."""
        self.garbage = b""
        """When set: what the language model answers instead of a chunk."""
        self._script = _load()
        self._number = itertools.count()
        self._embedder = InMemoryEmbedder(_DIMENSION)

    async def ModelReady(self, request: object, context: object) -> object:
        return service_pb2.ModelReadyResponse(ready=True)

    async def ModelInfer(self, request: Any, context: Any) -> object:
        self.metadata += context.invocation_metadata()
        raw, texts = request.raw_input_contents[0], []
        while raw:
            (length,) = struct.unpack_from("<I", raw)
            texts.append(raw[4 : 4 + length].decode())
            raw = raw[4 + length :]
        vectors = await self._embedder.embed(texts)
        packed = b"".join(struct.pack(f"<{_DIMENSION}f", *vector) for vector in vectors)
        return service_pb2.ModelInferResponse(raw_output_contents=[packed])

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[object]:
        self.metadata += context.invocation_metadata()
        async for request in requests:
            if self.garbage:
                yield _reply(self.garbage)
                continue
            try:
                steps, _ = self._script.read(request.raw_input_contents[0][4:], next(self._number))
            except self._script.BadRequest as error:
                yield service_pb2.ModelStreamInferResponse(error_message=f"invalid_request: {error}")
                continue
            for step in steps:
                await asyncio.sleep(step.wait_s)
                if step.error:
                    yield service_pb2.ModelStreamInferResponse(error_message=step.error)
                else:
                    yield _reply(step.chunk.encode())


@asynccontextmanager
async def scripted_triton() -> AsyncIterator[tuple[str, ScriptedTriton]]:
    """One, and its address."""
    server, triton = grpc.aio.server(), ScriptedTriton()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}", triton
    await server.stop(0)


def _reply(chunk: bytes) -> object:
    response = service_pb2.ModelInferResponse(raw_output_contents=[struct.pack("<I", len(chunk)) + chunk])
    return service_pb2.ModelStreamInferResponse(infer_response=response)


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sim_script", _SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its own module up
    spec.loader.exec_module(module)
    return module
