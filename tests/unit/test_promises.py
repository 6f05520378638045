"""What a service promises to keep: each of its clients of Redis waits for what the configuration asks for."""

from types import SimpleNamespace

import pytest

from services.kit.app import Kit
from services.kit.errors import StoreUnavailable
from services.kit.telemetry import open_telemetry
from services.memory import app as memory
from services.memory.config import Config as MemoryConfig
from services.orchestrator import app as orchestrator
from services.orchestrator.config import Config as OrchestratorConfig
from services.toolexec import app as toolexec
from services.toolexec.config import Config as ToolExecConfig

PROMISED = {"redis_replicas": 1, "redis_disk": True}
BUILDS = {
    "memory": (memory, memory.build, MemoryConfig(**PROMISED)),
    "orchestrator": (orchestrator, orchestrator.build, OrchestratorConfig(**PROMISED)),
    "worker": (orchestrator, orchestrator.build_worker, OrchestratorConfig(**PROMISED)),
    "toolexec": (toolexec, toolexec.build, ToolExecConfig(**PROMISED)),
}


class Away:
    """A client of a store that does not answer, and how it was opened."""

    opened: list[dict[str, object]]

    def __init__(self, url, **how):
        self.opened.append(how)

    def function(self, *what):
        return what

    def listener(self, heard):
        return SimpleNamespace(listen=lambda channel: None, start=lambda: None, close=self.close)

    def __getattr__(self, name):
        async def away(*arguments, **named):
            if name != "close":
                raise StoreUnavailable("the store does not answer")

        return away


@pytest.mark.parametrize("service", BUILDS)
async def test_each_client_of_redis_waits_for_replicas_and_disk_where_that_is_configured(service, monkeypatch):
    module, build, config = BUILDS[service]
    monkeypatch.setattr(Away, "opened", [], raising=False)
    monkeypatch.setattr(module, "Redis", Away)
    app = await build(config, Kit(open_telemetry("test", "", 0.0), None))
    assert Away.opened
    assert all((how.get("replicas"), how.get("disk")) == (1, True) for how in Away.opened), Away.opened
    for closer in app.closers:
        await closer()
