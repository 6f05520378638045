"""Puts the orchestrator together: who is wired to whom."""

from myriad.orchestrator.v1 import orchestrator_pb2_grpc
from services.kit.app import App, Kit
from services.kit.redis import Redis
from services.kit.triton import MODELS, Triton
from services.orchestrator.adapters.memory import MemoryAgents, MemoryDirectory, MemoryTurns
from services.orchestrator.adapters.nlu import NluClient
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.adapters.redis_owners import RedisOwners
from services.orchestrator.adapters.retrieval import RetrievalClient
from services.orchestrator.adapters.toolexec import ToolExecClient
from services.orchestrator.adapters.triton import TritonModel
from services.orchestrator.codec import EventCodec
from services.orchestrator.config import Config
from services.orchestrator.core.runs import Runs
from services.orchestrator.servicer import OrchestratorServicer


async def build(config: Config, kit: Kit) -> App:
    """The orchestrator, ready to be served."""
    memory = kit.network.client("memory", config.memory_address)
    redis = Redis(config.redis_url)
    triton = Triton(
        kit.network.client("triton", config.triton_address),
        breakers=kit.breakers(MODELS),
        first_chunk_s=config.first_chunk_s,
    )
    run_log = RedisRunLog(redis, config.log_ttl_s, config.lease_s)
    runs = Runs(
        memory=MemoryTurns(memory),
        agents=MemoryAgents(memory),
        nlu=NluClient(kit.network.client("nlu", config.nlu_address), config.nlu_timeout_s),
        retrieval=RetrievalClient(
            kit.network.client("retrieval", config.retrieval_address), config.retrieval_timeout_s
        ),
        tools=ToolExecClient(kit.network.client("toolexec", config.toolexec_address)),
        model=TritonModel(triton),
        run_log=run_log,
        codec=EventCodec(),
        owners=RedisOwners(redis, config.owner_s),
        config=config,
    )
    runs.start()
    servicer = OrchestratorServicer(runs, MemoryDirectory(memory))
    return App(
        name="orchestrator",
        add_to=lambda server: orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(servicer, server),
        checks={"redis": run_log.check},
        closers=[run_log.close, runs.close],
        leavers=[runs.close],
    )
