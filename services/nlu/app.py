"""Composition root of nlu: who is wired to whom."""

import asyncio
from datetime import datetime

from myriad.nlu.v1 import nlu_pb2_grpc
from services.kit.agents import AgentCatalog
from services.kit.app import App, Kit
from services.kit.embedder import TritonEmbedder
from services.kit.triton import MODELS, Triton
from services.nlu.adapters.files import FileIntentModels
from services.nlu.adapters.memory import MemoryAgents
from services.nlu.config import Config
from services.nlu.core.analyze import Analyzer, Readers
from services.nlu.core.entities.extract import Extractor
from services.nlu.core.language import Languages
from services.nlu.core.workers import Workers
from services.nlu.servicer import NluServicer

_CHECK_TIMEOUT_S = 1.0


async def build(config: Config, kit: Kit) -> App:
    """The service, ready to be served."""
    zone = config.zone()
    workers = Workers(config.threads)
    extractor = Extractor(config.phone_region)
    languages = await asyncio.to_thread(Languages)
    await workers.run(extractor.warm)
    triton = Triton(
        kit.network.client("triton", config.triton_address), embedder=config.embedder, breakers=kit.breakers(MODELS)
    )
    analyzer = Analyzer(
        agents=MemoryAgents(AgentCatalog(kit.network.client("memory", config.memory_address))),
        embedder=TritonEmbedder(triton, config.embed_timeout_s),
        models=FileIntentModels(config.models_dir, capacity=config.heads_cached),
        readers=Readers(extractor, languages, workers, lambda: datetime.now(zone)),
        embedder_name=config.embedder,
    )
    servicer = NluServicer(analyzer)
    return App(
        name="nlu",
        add_to=lambda server: nlu_pb2_grpc.add_NluServiceServicer_to_server(servicer, server),
        checks={"embedder": lambda: triton.check(config.embedder, _CHECK_TIMEOUT_S)},
        closers=[workers.close],
    )
