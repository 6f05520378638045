"""Puts all services into one process. The only place that knows more than one of them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import structlog

from services.kit.app import App, Kit, KitConfig, open_kit
from services.kit.clients import INPROC
from services.kit.config import describe, load
from services.kit.serve import serve
from services.kit.telemetry import log_to_stdout
from services.kit.topology import SERVICES
from services.memory import app as memory
from services.memory.config import Config as MemoryConfig
from services.nlu import app as nlu
from services.nlu.config import Config as NluConfig
from services.orchestrator import app as orchestrator
from services.orchestrator.config import Config as OrchestratorConfig
from services.retrieval import app as retrieval
from services.retrieval.config import Config as RetrievalConfig
from services.toolexec import app as toolexec
from services.toolexec.config import Config as ToolExecConfig

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Configs:
    """Configuration of each."""

    memory: MemoryConfig
    nlu: NluConfig
    retrieval: RetrievalConfig
    toolexec: ToolExecConfig
    orchestrator: OrchestratorConfig


def load_configs(environ: Mapping[str, str]) -> Configs:
    """The configurations, as the services read them; they meet each other in this process.

    Raises:
        ConfigError: the environment does not make them.
    """
    return Configs(
        memory=_met_inproc(load(MemoryConfig, environ, "MYRIAD_MEMORY_")),
        nlu=_met_inproc(load(NluConfig, environ, "MYRIAD_NLU_")),
        retrieval=_met_inproc(load(RetrievalConfig, environ, "MYRIAD_RETRIEVAL_")),
        toolexec=_met_inproc(load(ToolExecConfig, environ, "MYRIAD_TOOLEXEC_")),
        orchestrator=_met_inproc(load(OrchestratorConfig, environ, "MYRIAD_ORCHESTRATOR_")),
    )


def described(kit_config: KitConfig, configs: Configs) -> dict[str, str]:
    """Setting to value, secrets masked; a service's settings begin with its name: `memory_redis_url`."""
    shown = describe(kit_config)
    for service in fields(configs):
        settings = describe(getattr(configs, service.name))
        shown |= {f"{service.name}_{setting}": value for setting, value in settings.items()}
    return shown


async def build(configs: Configs, kit: Kit) -> list[App]:
    """The services, the one behind the edge first."""
    return [
        await orchestrator.build_both(configs.orchestrator, kit),
        await memory.build(configs.memory, kit),
        await nlu.build(configs.nlu, kit),
        await retrieval.build(configs.retrieval, kit),
        await toolexec.build(configs.toolexec, kit),
    ]


async def run(kit_config: KitConfig, configs: Configs) -> None:
    """Serves them all on one port until SIGTERM or SIGINT.

    Raises:
        ValueError: a configuration is wrong.
        CannotStart: a port cannot be bound.
    """
    kit = open_kit(kit_config, "vertical")
    log_to_stdout(kit_config.log_level)
    log.info("starting", service="vertical", **described(kit_config, configs))
    await serve(await build(configs, kit), kit, kit_config)


def _met_inproc(config: Any) -> Any:
    addresses = {f"{name}_address" for name in SERVICES}
    return replace(config, **{field.name: INPROC for field in fields(config) if field.name in addresses})
