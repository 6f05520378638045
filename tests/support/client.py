"""A client of the whole stack through Envoy: gRPC by the generated stubs, JSON and SSE by HTTP."""

import json
import time
import uuid
from collections.abc import Sequence
from contextlib import aclosing, asynccontextmanager

import grpc
import httpx
from google.protobuf.message_factory import GetMessageClass

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2, sessions_pb2
from services.dev.stack import Stack
from services.kit.call import Principal
from services.kit.interceptors.identity import metadata_of
from tests.support.metrics import metrics_at
from tests.support.requests import method_of

TIMEOUT_S = 60


class Face:
    """One user of a stack."""

    def __init__(self, stack: Stack, user: str | None = None, tenant: str = "dev", roles: Sequence[str] = ("admin",)):
        self.stack = stack
        self.user = user or f"user-{uuid.uuid4().hex[:12]}"
        self.metadata = metadata_of(Principal(tenant, self.user, frozenset(roles)), None)
        self.channel = grpc.aio.insecure_channel(stack.address("envoy"))
        self.stub = orchestrator_pb2_grpc.OrchestratorServiceStub(self.channel)
        self.http = httpx.AsyncClient(
            base_url=f"http://{stack.address('envoy')}", headers=dict(self.metadata), timeout=TIMEOUT_S, trust_env=False
        )

    async def close(self):
        await self.http.aclose()
        await self.channel.close()

    async def ask(self, rpc, request=None, **fields):
        """The reply of an RPC, by its name; the request as a message or by its fields."""
        method = getattr(self.stub, rpc)
        if request is None:
            request = GetMessageClass(method_of(f"orchestrator.{rpc}").input_type)(**fields)
        return await method(request, metadata=self.metadata, timeout=TIMEOUT_S)

    async def session(self, agent="aura"):
        reply = await self.stub.CreateSession(sessions_pb2.CreateSessionRequest(agent=agent), metadata=self.metadata)
        return reply.session.session_id

    def run(self, session_id, text, **fields):
        request = run_pb2.RunTurnRequest(session_id=session_id, input=text, **fields)
        return self.stub.RunTurn(request, metadata=self.metadata, timeout=TIMEOUT_S)

    async def turn(self, session_id, text, **fields):
        return [event async for event in self.run(session_id, text, **fields)]

    def watch(self, run_id, after=0):
        request = run_pb2.WatchRunRequest(run_id=run_id, after_sequence=after)
        return self.stub.WatchRun(request, metadata=self.metadata, timeout=TIMEOUT_S)

    async def watched(self, run_id, after=0):
        return [event async for event in self.watch(run_id, after)]

    async def sse(self, method, path, **kw):
        """Events of an SSE stream as JSON, each with the time it came."""
        async with self.http.stream(method, path, **kw) as reply:
            assert reply.status_code == 200, await reply.aread()
            assert reply.headers["content-type"].startswith("text/event-stream")
            async with aclosing(reply.aiter_lines()) as lines:
                async for line in lines:
                    if line.startswith("data: "):
                        yield time.monotonic(), json.loads(line.removeprefix("data: "))


@asynccontextmanager
async def face(stack, **kw):
    made = Face(stack, **kw)
    try:
        yield made
    finally:
        await made.close()


async def put_agent(stack, name, tenant="dev", **fields):
    """Writes an agent that needs no training and no documents; the scripted model answers for it."""
    fields = {"model": agent_pb2.ModelPolicy(model="sim_llm")} | fields
    agent = agent_pb2.Agent(name=name, persona="You play scripts.", **fields)
    async with grpc.aio.insecure_channel(stack.address("memory")) as channel:
        stub = memory_pb2_grpc.MemoryServiceStub(channel)
        identity = metadata_of(Principal(tenant, "operator"), None)
        await stub.PutAgent(memory_pb2.PutAgentRequest(agent=agent), metadata=identity)


def sim(**script):
    """What to say so that the scripted model plays this."""
    return f"#sim {json.dumps(script)}"


def kinds(events):
    return [event.WhichOneof("event") for event in events]


async def metric(stack, name):
    """A metric of Triton's models: the sum over its label sets."""
    return (await metrics_at(stack.address("triton_metrics"))).sum(name)
