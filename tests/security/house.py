"""All five services in one process, as an operator starts it, with secrets in all it is given, and all its sinks.

Each secret is a word that occurs nowhere else.
"""

import asyncio
import base64
import re
import secrets
import signal
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from redis.asyncio import Redis

from myriad.common.v1 import tool_pb2
from myriad.memory.v1 import memory_pb2 as memory
from myriad.orchestrator.v1 import run_pb2, sessions_pb2
from myriad.retrieval.v1 import retrieval_pb2 as retrieval
from services.dev import identity
from services.dev.engines import envoy
from services.kit.call import Principal
from services.kit.interceptors.identity import MESH_TOKEN, metadata_of
from services.kit.status import from_rpc_error
from tests.integration.edge.envoys import Backend, Edge, make_descriptors, running_edge
from tests.integration.edge.stub import StubOrchestrator
from tests.integration.edge.tokens import bearer
from tests.security.scripted_triton import ScriptedTriton, scripted_triton
from tests.security.world import somebody, tool_agent
from tests.support.http_server import HttpServer, answer, broken_off, running_http_server, silent
from tests.support.milvus import running_milvus
from tests.support.process import Process, running
from tests.support.requests import ask, method_of
from tests.support.valkey import running_valkey

ROOT = Path(__file__).parents[2]

NOBODYS = (
    *("openai_key", "redis_password", "milvus_token", "mesh_token"),
    *("jwt", "authorization", "cookie", "baggage", "header", "query"),
)
"""Secrets of operators and of callers' credentials: no place is right for them."""
CONTENT = ("prompt", "persona", "document", "credential", "argument", "result")
"""What people, agents and tools say: it is kept and used, and told to no log, span or metric."""


def canary(name: str) -> str:
    return f"canary{name.replace('_', '')}{secrets.token_hex(8)}"


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent, whole."""

    received: list[Any] = field(default_factory=list)

    async def Export(self, request: Any, context: object) -> object:
        self.received.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


@dataclass
class House:
    """The process, what is before and behind it, and all it said."""

    process: Process
    edge: Edge
    triton: ScriptedTriton
    crm: HttpServer
    collector: Collector
    redis_url: str
    words: dict[str, str]
    errors: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    """Of errors through Envoy, but for the names of their types."""
    events: list[Any] = field(default_factory=list)
    sinks: dict[str, str] = field(default_factory=dict)

    async def ask(self, name: str, request: Any, *, most: int = 100) -> list[Any]:
        """The replies of an RPC, with secrets in its metadata; of one that is refused none, and its error is kept."""
        metadata = [
            *metadata_of(somebody("canaries"), self.words["mesh_token"]),
            ("authorization", f"Bearer {self.words['authorization']}"),
            ("cookie", f"session={self.words['cookie']}"),
            ("baggage", f"user={self.words['baggage']}"),
            ("tracestate", f"vendor={self.words['baggage']}"),
            ("x-api-key", self.words["header"]),
        ]
        async with grpc.aio.insecure_channel(self.process.address) as channel:
            try:
                return await ask(channel, method_of(name), request, metadata, most=most)
            except grpc.aio.AioRpcError as error:
                told = from_rpc_error(error, "it")
                self.errors.append(f"{error.details()} {told.message} {told.fields} {told.metadata} {error!r}")
                return []

    async def turn(self, text: str, agent: str = "canaries", *, most: int = 100) -> list[Any]:
        """The events of a turn in a session of its own."""
        (made,) = await self.ask("orchestrator.CreateSession", sessions_pb2.CreateSessionRequest(agent=agent))
        asked = run_pb2.RunTurnRequest(session_id=made.session.session_id, input=text)
        events = await self.ask("orchestrator.RunTurn", asked, most=most)
        self.events += events
        return events


def found(word: str, text: str) -> bool:
    """Whether a text has a word, as it is or encoded."""
    encoded = [base64.b64encode(word.encode()).decode().rstrip("="), word.encode().hex(), quote(word), word.upper()]
    return any(each in text for each in [word, *encoded])


def tool(name: str, url: str, endpoint: str = "crm") -> tool_pb2.Tool:
    parameters = Struct()
    parameters.update({"type": "object", "properties": {"order": {"type": "string"}}})
    return tool_pb2.Tool(
        name=name,
        description="Gets.",
        parameters=parameters,
        side_effect=tool_pb2.SIDE_EFFECT_IDEMPOTENT,
        http=tool_pb2.HttpTool(endpoint=endpoint, url=url, idempotency_key=True),
    )


async def live(house: House) -> None:
    """Turns that go well, that fail, and that break, with words in all they hold."""
    words, crm = house.words, house.crm
    crm.answers |= {
        "/ok": answer(200, b'{"state": "%s"}' % words["result"].encode()),
        "/bad": answer(500, words["result"].encode(), "text/plain"),
        "/broken": broken_off,
        "/silent": silent,
    }
    urls = {"ok": "/ok", "bad": "/bad", "broken": "/broken", "slow": "/silent", "gone": "/gone/{order}"}
    tools = [tool(name, f"{url}?api_key={words['credential']}") for name, url in urls.items()]
    tools[3].timeout.FromMilliseconds(100)
    tools.append(tool("away", f"/x?api_key={words['credential']}", "away"))
    tools.append(tool("private", f"http://10.0.0.1/?api_key={words['credential']}", ""))
    agent = tool_agent("canaries", *tools)
    agent.persona = f"You know {words['persona']}."
    agent.intents.add(name="ask", examples=[f"what is {words['persona']}", "tell me"])
    agent.knowledge.collections.append("canaries")
    collection = retrieval.Collection(name="canaries")
    document = retrieval.Document(document_id="d", title="T", text=f"The word is {words['document']}.")
    written = retrieval.UpsertDocumentsRequest(collection="canaries", documents=[document])
    assert await house.ask("memory.PutAgent", memory.PutAgentRequest(agent=agent))
    assert await house.ask("retrieval.CreateCollection", retrieval.CreateCollectionRequest(collection=collection))
    assert await house.ask("retrieval.UpsertDocuments", written)
    for each in tools:
        call = f'{{"name": "{each.name}", "arguments": {{"order": "{words["argument"]}"}}}}'
        await house.turn(f'{words["prompt"]}\n#sim {{"tool_calls": [{call}], "then": {{"echo": true}}}}')
    for script in (
        f'{{"tool_calls": [{{"name": "{words["argument"]}"}}], "then": {{"text": "{words["prompt"]}"}}}}',
        f'{{"tool_calls": [{{"name": "ok", "arguments": "{{{words["argument"]}"}}], "then": {{"text": "x"}}}}',
        f'{{"error": "internal: {words["prompt"]}"}}',
        f'{{"deltas": ["{words["prompt"]}"], "error": "boom {words["prompt"]}"}}',
        '{"nonsense": 1}',
    ):
        await house.turn(f"{words['prompt']}\n#sim {script}")
    for chunk in (
        words["prompt"],
        f'{{"choices": "{words["prompt"]}"}}',
        f'{{"choices": [{{"delta": "{words["prompt"]}"}}]}}',
        f'{{"usage": {{"prompt_tokens": "{words["prompt"]}", "completion_tokens": 1}}}}',
        f'{{"usage": {{"{words["prompt"]}": 1}}}}',
        f'{{"choices": [{{"delta": {{"tool_calls": [{{"index": "{words["prompt"]}", "function": {{}}}}]}}}}]}}',
    ):
        house.triton.garbage = chunk.encode()
        await house.turn(words["prompt"])
    house.triton.garbage = b""
    await house.turn(f'{words["prompt"]}\n#sim {{"forever": true, "delay_ms": 20}}', most=2)


async def through_envoy(house: House) -> None:
    """The same as JSON, with a token; well, and refused."""
    words, http = house.words, house.edge.http
    noise = {
        "cookie": f"session={words['cookie']}",
        "baggage": f"user={words['baggage']}",
        "x-api-key": words["header"],
        "referer": f"https://example.test/{words['header']}",
        "user-agent": "test",
        MESH_TOKEN: words["header"],
    }
    good = noise | dict(house.edge.headers)
    made = await http.post("/v1/sessions", json={"agent": "canaries"}, headers=good)
    assert made.status_code == 200, made.text
    run = f"/v1/sessions/{made.json()['session']['session_id']}:run"
    said = await http.post(run, json={"input": words["prompt"]}, headers=good)
    assert '"completed"' in said.text
    for path_, body, headers in (
        ("/v1/sessions", {"agent": words["prompt"]}, noise | {"authorization": f"Bearer {words['authorization']}"}),
        ("/v1/sessions", {"agent": words["prompt"]}, noise),
        (f"/v1/sessions?access_token={words['query']}", {"agent": "canaries"}, good),
        (f"/v1/sessions?api_key={words['query']}", {"agent": "canaries"}, noise),
        (f"/v1/nowhere?api_key={words['query']}", {"agent": "canaries"}, good),
        (run, {"input": f"{words['prompt']}\x00"}, good),
    ):
        refused = await http.post(path_, json=body, headers=headers)
        assert refused.status_code >= 400
        house.errors.append(f"{refused.headers} {refused.text}")
        house.bodies.append(re.sub(r'"@type": ?"[^"]*"', "", refused.text))
    async with asyncio.timeout(20):  # lines and spans are written now and then
        while "/v1/nowhere" not in access_log(house) or "/v1/nowhere" not in str(house.collector.received):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def access_log(house: House) -> str:
    return (house.edge.work / "access.log").read_text()


def flush_soon(document: Any) -> None:
    """Has Envoy send its spans at once."""
    layer = {"name": "soon", "static_layer": {"tracing.opentelemetry.flush_interval_ms": 100}}
    document["layered_runtime"]["layers"].append(layer)


async def go_wrong(house: House) -> None:
    """Requests that are refused, with words in them."""
    word = house.words["prompt"]
    for request in (
        run_pb2.RunTurnRequest(session_id=f"{word}!", input=word),
        run_pb2.RunTurnRequest(session_id="s", input=f"{word}\x00"),
        run_pb2.RunTurnRequest(session_id=word, input=word, request_id=f"{word} x"),
    ):
        await house.ask("orchestrator.RunTurn", request)
    for collection, filters in (("canaries", {"x": word * 100}), (f"{word}!", {"x": word})):
        asked = retrieval.SearchRequest(collections=[collection], query=word, filter=filters)
        await house.ask("retrieval.Search", asked)
    token, house.words["mesh_token"] = house.words["mesh_token"], house.words["mesh_token"] + "x"
    await house.ask("memory.ListAgents", memory.ListAgentsRequest())
    house.words["mesh_token"] = token


async def held(redis: Any, name: bytes) -> object:
    """What a key holds, as it was written: a dump of it would be compressed."""
    commands = {
        b"string": ("GET", name),
        b"hash": ("HGETALL", name),
        b"list": ("LRANGE", name, 0, -1),
        b"set": ("SMEMBERS", name),
        b"zset": ("ZRANGE", name, 0, -1),
        b"stream": ("XRANGE", name, "-", "+"),
    }
    kind = await redis.type(name)
    return await redis.execute_command(*commands[kind]) if kind != b"none" else None  # it has gone meanwhile


async def collect(house: House) -> None:
    """Every sink as text. The process is told to stop in good order, so that it sends the spans it holds."""

    def scrape() -> str:
        with urllib.request.urlopen(house.process.metrics_url, timeout=5) as reply:
            return str(reply.read().decode())

    house.sinks["metrics"] = await asyncio.to_thread(scrape)
    async with Redis.from_url(house.redis_url, protocol=2) as redis:
        names = [name async for name in redis.scan_iter(count=1000)]
        values = [str(await held(redis, name)) for name in names]
    house.sinks["redis keys"] = "\n".join(name.decode() for name in names)
    house.sinks["redis values"] = "\n".join(values)
    house.process.process.send_signal(signal.SIGTERM)
    await house.process.ended(15.0)
    house.sinks["access log"] = access_log(house)
    house.sinks["Envoy's log"] = (house.edge.work / "envoy.log").read_text()
    house.sinks["log"] = house.process.output
    house.sinks["standard error"] = house.process.complaint
    house.sinks["spans"] = "\n".join(str(each) for each in house.collector.received)
    house.sinks["errors"] = "\n".join(house.errors)
    house.sinks["events"] = "\n".join(str(each) for each in house.events)
    house.sinks["model's metadata"] = str(house.triton.metadata)
    house.sinks["tool's requests"] = "\n".join(str(each) for each in house.crm.requests)


@asynccontextmanager
async def running_house(work: Path) -> AsyncIterator[House]:
    """Everything started, nothing asked yet."""
    words = {name: canary(name) for name in (*NOBODYS, *CONTENT)}
    keys, somebodys = work / "keys", Principal("canaries", "ann")
    await asyncio.to_thread(identity.make_keys, keys)
    token = identity.mint(keys, somebodys, 3600)
    words["mesh_token"], words["jwt"] = (keys / "mesh.token").read_text().strip(), token.rpartition(".")[2]
    await make_descriptors()
    async with AsyncExitStack() as stack:
        redis_url, milvus_uri = await asyncio.gather(
            stack.enter_async_context(running_valkey(work / "valkey")),
            stack.enter_async_context(running_milvus(work / "milvus")),
        )
        triton_address, triton = await stack.enter_async_context(scripted_triton())
        crm = await stack.enter_async_context(running_http_server())
        collector, collecting = Collector(), grpc.aio.server()
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(collector, collecting)
        spans = f"127.0.0.1:{collecting.add_insecure_port('127.0.0.1:0')}"
        await collecting.start()
        stack.push_async_callback(collecting.stop, 0)
        # Its default user has no password, and takes any.
        with_password = redis_url.replace("://", f"://default:{words['redis_password']}@")
        variables = {f"MYRIAD_{each}_REDIS_URL": with_password for each in ("MEMORY", "ORCHESTRATOR", "TOOLEXEC")}
        variables |= {f"MYRIAD_{each}_TRITON_ADDRESS": triton_address for each in ("NLU", "ORCHESTRATOR", "RETRIEVAL")}
        variables |= {
            "MYRIAD_AUTH": "mesh",
            "MYRIAD_MESH_TOKEN_FILE": str(keys / "mesh.token"),
            "MYRIAD_LOG_LEVEL": "info",
            "MYRIAD_ORCHESTRATOR_MODELS": "sim_llm",
            "MYRIAD_RETRIEVAL_MILVUS_URI": milvus_uri,
            "MYRIAD_RETRIEVAL_MILVUS_TOKEN": words["milvus_token"],
            "MYRIAD_TOOLEXEC_ENDPOINTS": f"crm={crm.url()},away=http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{spans}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OPENAI_API_KEY": words["openai_key"],
            "ANTHROPIC_API_KEY": words["openai_key"],
        }
        process = await stack.enter_async_context(running("services.vertical", work, variables))
        async with asyncio.timeout(40):
            while not re.search(r'"event": ?"ready"', process.output):
                assert process.process.returncode is None, process.complaint + process.output
                await asyncio.sleep(0.1)
        backend = Backend(StubOrchestrator(), health.aio.HealthServicer(), process.address)
        fields = envoy.with_keys(keys, auth=True, tls=False) | {"collector": spans}
        behind = running_edge(work / "edge", backend, fields, headers=bearer(token), change=flush_soon, status=404)
        edge = await stack.enter_async_context(behind)
        yield House(process, edge, triton, crm, collector, redis_url, words)
