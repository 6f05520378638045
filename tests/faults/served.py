"""What works on runs, in this process, on whatever machine it is run, in front of a store that fails over."""

import asyncio
import json
import time
from contextlib import AsyncExitStack

import grpc
import pytest
from google.protobuf import json_format
from redis.crc import key_slot

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2, sessions_pb2
from services.dev.login import DEVELOPER
from services.kit.app import Kit
from services.kit.call import work_as
from services.kit.clients import INPROC
from services.kit.errors import ServiceError
from services.kit.keys import SessionKeys
from services.kit.telemetry import open_telemetry
from services.memory import app as memory
from services.memory import config as memory_config
from services.orchestrator import app as orchestrator
from services.orchestrator import config as orchestrator_config
from services.orchestrator.domain.agent import Role, ToolCall
from services.orchestrator.domain.turn import Chunk
from services.toolexec import app as toolexec
from services.toolexec import config as toolexec_config
from tests.faults.ledger import ORDER, Ledger
from tests.support.client import kinds
from tests.support.http_server import running_http_server
from tests.support.writers import SLOTS

WORDS = tuple(f"word-{i} " for i in range(40))
"""An answer of four seconds: the primary is killed in its middle."""

ASKS_AFTER_S = 0.7
RETRY_S = 1.0
"""A run of the queue that failed is tried again after so long."""

GIVEN_UP_S = 10.0
TIMEOUT_S = 60.0

_BY_MODEL = {"tool_choice": "TOOL_CHOICE_MODEL"}
_SIGN = {"name": "sign", "description": "Signs.", "side_effect": "SIDE_EFFECT_READ", "client": {}}
_AGENTS = (
    {"name": "aura", "persona": "You help.", "tools": [_SIGN], "model": _BY_MODEL},
    {"name": "clerk", "persona": "You mind the desk.", "tools": [ORDER], "model": _BY_MODEL},
)


class Served:
    """Memory, toolexec, the orchestrator and a worker; the model is a script."""

    def __init__(self, url: str, replicas: int) -> None:
        """Opens nothing yet.

        Args:
            url: Of the store.
            replicas: How many of them must have what is to be kept.
        """
        self.kit = Kit(open_telemetry("test", "", 0.0), None)
        self._settings = {"redis_url": url, "redis_replicas": replicas}
        self._closing = AsyncExitStack()

    async def __aenter__(self):
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(orchestrator, "TritonModel", lambda *_: Script())
                await self._open()
            work_as(DEVELOPER, name="test", timeout=TIMEOUT_S)
            for fields in _AGENTS:
                agent = json_format.ParseDict(fields, agent_pb2.Agent())
                await self.memory.PutAgent(memory_pb2.PutAgentRequest(agent=agent))
        except BaseException:
            await self._closing.aclose()
            raise
        return self

    async def __aexit__(self, *_error):
        await self._closing.aclose()

    async def _open(self) -> None:
        self._closing.push_async_callback(self.kit.network.close)
        shop = await self._closing.enter_async_context(running_http_server())
        self.ledger = Ledger(shop)
        there = {"memory_address": INPROC, "toolexec_address": INPROC, "retry_s": RETRY_S}
        runs = orchestrator_config.Config(**self._settings, **there)
        tools = toolexec_config.Config(**self._settings, memory_address=INPROC, endpoints={"shop": shop.url()})
        for building in (
            memory.build(memory_config.Config(**self._settings), self.kit),
            toolexec.build(tools, self.kit),
            orchestrator.build(runs, self.kit),
        ):
            self._close_later(app := await building)
            self.kit.registry(app)
        self._close_later(await orchestrator.build_worker(runs, self.kit))
        self.client = self.kit.network.client("orchestrator", INPROC)
        self.stub = orchestrator_pb2_grpc.OrchestratorServiceStub(self.client.channel)
        self.memory = memory_pb2_grpc.MemoryServiceStub(self.kit.network.client("memory", INPROC).channel)

    def _close_later(self, app) -> None:
        for closer in app.closers:
            self._closing.push_async_callback(closer)

    async def session(self, slots=range(SLOTS)):
        """A new session, whose tag is in one of these slots of a cluster."""
        while True:
            reply = await self.stub.CreateSession(sessions_pb2.CreateSessionRequest(agent="aura"))
            if key_slot(SessionKeys(DEVELOPER, reply.session.session_id).session.encode()) in slots:
                return reply.session.session_id

    async def turn(self, session_id, text):
        """All events of a turn, its stream taken up again whenever it is lost; what it asks for it is given."""
        request = run_pb2.RunTurnRequest(
            session_id=session_id, input=text, on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE
        )
        events, stream = [], self.stub.RunTurn(request)
        while not events or kinds(events)[-1] not in {"completed", "failed", "cancelled"}:
            try:
                async for event in stream:
                    events += [event] if event.sequence else []
                if events and events[-1].HasField("approval_required"):
                    await self.stub.RespondToRun(_answer_to(events[-1]))
            except (grpc.aio.AioRpcError, ServiceError) as error:
                if not events or error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
            seen = events[-1].sequence
            stream = self.stub.WatchRun(run_pb2.WatchRunRequest(run_id=events[0].run_id, after_sequence=seen))
        return events

    async def recovered(self, since, slots=range(SLOTS)):
        """Seconds since then until a turn succeeds, in a session in these slots. Infinite: it does not in ten.

        A failure before that says when to try again.
        """
        while time.monotonic() - since < GIVEN_UP_S:
            try:
                async with asyncio.timeout(GIVEN_UP_S):
                    events = await self.turn(await self.session(slots), "short")
                assert kinds(events)[-1] == "completed"
            except (grpc.aio.AioRpcError, ServiceError):
                await asyncio.sleep(0.1)
            else:
                return time.monotonic() - since
        return float("inf")


def _answer_to(event):
    """What the client says that ran the tool."""
    token = event.approval_required.approval_token
    return run_pb2.RespondToRunRequest(run_id=event.run_id, approval_token=token, tool_result={"result_json": "{}"})


class Script:
    """Answers in four seconds to `long`, at once to `short`; `ask`: it asks for a tool once the primary is gone.

    To what `orders.asked` makes it answers as the scripted model of a stack does.
    """

    async def chat(self, model, messages, tools, max_tokens, temperature):
        (*_, asked) = (message.content for message in messages if message.role is Role.USER)
        if asked.startswith("#sim ") and messages[-1].role is Role.USER:
            script = json.loads(asked.removeprefix("#sim "))
            yield Chunk(script["text"])
            (call,) = script["tool_calls"]
            yield Chunk(tool_calls=(ToolCall("", call["name"], json.dumps(call["arguments"])),))
        elif asked.startswith("#sim "):
            then = json.loads(asked.removeprefix("#sim "))["then"]
            for number in range(then["tokens"]):
                yield Chunk(f"word{number} ")
                await asyncio.sleep(then["delay_ms"] / 1000)
        elif messages[-1].content == "ask":
            await asyncio.sleep(ASKS_AFTER_S)
            yield Chunk(tool_calls=(ToolCall("", "sign", "{}"),))
        else:
            is_long = messages[-1].content == "long"
            for word in WORDS if is_long else ("Done.",):
                yield Chunk(word)
                await asyncio.sleep(0.1 if is_long else 0.0)
