"""The real Envoy, with the committed configuration, in front of a stub orchestrator."""

import asyncio
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest_asyncio
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from myriad.orchestrator.v1 import orchestrator_pb2_grpc
from tests.integration.edge.stub import StubOrchestrator

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Edge:
    """Envoy, what is behind it, and clients of it."""

    port: int
    admin: int
    stub: StubOrchestrator
    health: health.aio.HealthServicer
    channel: grpc.aio.Channel
    http: httpx.AsyncClient

    @property
    def orchestrator(self) -> orchestrator_pb2_grpc.OrchestratorServiceAsyncStub:
        """A client that speaks gRPC."""
        return orchestrator_pb2_grpc.OrchestratorServiceStub(self.channel)  # type: ignore[return-value]


def free_port() -> int:
    """A port nobody listens on, below those the system gives to clients."""
    for port in range(21000, 32000, 7):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                try:
                    probe.close()
                    with socket.socket() as listener:
                        listener.bind(("127.0.0.1", port))
                        return port
                except OSError:
                    continue
    raise RuntimeError("no free port")
