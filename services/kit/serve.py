"""Runs services in this process: binds, reports health, drains on SIGTERM, closes in reverse."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TypeVar

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2

from services.kit import topology
from services.kit.app import App, Kit, KitConfig, open_kit, ready
from services.kit.config import ConfigError, describe, load
from services.kit.errors import Unavailable
from services.kit.grpc_server import grpc_server
from services.kit.lag import watch_lag
from services.kit.probes import Vitals, serve_probes
from services.kit.telemetry import log_to_stdout
from services.kit.tls import Certificates

Config = TypeVar("Config")
Build = Callable[[Config, Kit], Awaitable[App]]

log = structlog.get_logger(__name__)

LIVENESS = "liveness"
"""Health of the process alone: SERVING as long as it answers, whatever it waits for."""
_CHECK_EVERY_S = 1.0
_WAIT_EVERY_S = 0.2
"""While not ready: who starts beside what it needs is not held up by its own looking."""
_LAST_S = 1.0
_GC_EVERY = 50_000
_CHECK_TIMEOUT_S = 2.0
_KNOCK_TIMEOUT_S = 1.0
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class CannotStart(Exception):
    """The service cannot be built, or a port cannot be had. The message says what."""


def main(name: str, config_type: type[Config], build: Build[Config], *, settings: str = "") -> None:
    """Runs one service until it is told to stop: the whole of its `__main__`. One that cannot start says why.

    Args:
        name: Its row in the topology.
        config_type: Its configuration.
        build: Makes it.
        settings: The service whose variables it reads. Empty: its own.
    """
    try:
        kit_config = load(KitConfig, os.environ, "MYRIAD_", strict=False)
        config = load(config_type, os.environ, f"MYRIAD_{(settings or name).upper()}_")
        kit = open_kit(kit_config, name)
    except (ConfigError, ValueError, OSError) as error:
        sys.exit(f"{name} cannot start: {error}")
    log_to_stdout(kit_config.log_level)
    log.info("starting", service=name, **describe(kit_config), **describe(config))

    async def run() -> None:
        try:
            app = await build(config, kit)
        except (ValueError, OSError) as error:
            raise CannotStart(str(error)) from error
        await serve([app], kit, kit_config)

    try:
        run_process(run())
    except CannotStart as error:
        sys.exit(f"{name} cannot start: {error}")


def run_process(work: Coroutine[None, None, None]) -> None:
    """Runs the one coroutine of a process to its end, on uvloop: a sixth less CPU a turn (docs/adr/0012)."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


async def serve(apps: Sequence[App], kit: Kit, config: KitConfig) -> None:
    """Serves `apps` on one port until SIGTERM or SIGINT.

    Raises:
        CannotStart: a port cannot be bound.
    """
    async with AsyncExitStack() as closing:
        closing.callback(kit.telemetry.close)
        closing.push_async_callback(kit.network.close)
        for app in apps:
            for closer in app.closers:
                closing.push_async_callback(closer)
        server, status = grpc_server([kit.registry(app) for app in apps])
        row = topology.PROCESSES[apps[0].name]
        address, vitals = f"{config.host}:{config.port or row.port}", Vitals()
        _bind(server, address, kit.certificates)
        await status.set(LIVENESS, _SERVING)
        for service in ("", *(topology.PROCESSES[app.name].proto_service for app in apps)):
            await status.set(service, _NOT_SERVING)  # until the checks have passed: grpc's own default is SERVING
        await server.start()
        closing.push_async_callback(server.stop, 0)
        if config.metrics_port >= 0:
            port = config.metrics_port or row.metrics_port
            with _binding(f"{config.host}:{port}"):
                closing.callback(serve_probes(config.host, port, vitals, kit.telemetry.metrics))
        _collect_seldom()
        watch = asyncio.create_task(_watch_readiness(apps, status, vitals))
        closing.callback(watch.cancel)
        closing.callback(_watch_loop(vitals, kit.telemetry.load.lag.observe))
        if kit.certificates is not None:
            following = kit.certificates.follow(taken=lambda: _knock(config.host, config.port or row.port))
            closing.callback(asyncio.create_task(following).cancel)
        log.info("listening", address=address)
        await _told_to_stop()
        watch.cancel()
        vitals.say(ready=False)
        await _drain(apps, server, status, config)
    log.info("stopped")


def _bind(server: grpc.aio.Server, address: str, certificates: Certificates | None) -> None:
    with _binding(address):
        if certificates is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, certificates.server())


def _collect_seldom() -> None:
    """Has the garbage collector look less often: what was made until here stays to the end, and calls leave few cycles.

    Our programs begin without it: looking for garbage among what they import costs a sixth of the start.
    """
    gc.freeze()
    gc.set_threshold(_GC_EVERY)
    gc.enable()


async def _drain(
    apps: Sequence[App], server: grpc.aio.Server, status: health.aio.HealthServicer, config: KitConfig
) -> None:
    """Takes no more calls, and lets those under way end, for as long as there is time."""
    log.info("draining", seconds=config.drain_s)
    for app in apps:
        for drain in app.drainers:
            drain()
    await status.enter_graceful_shutdown()
    await asyncio.sleep(config.notice_s)  # gRPC breaks calls off that arrive while it stops to listen
    left_s = max(config.drain_s - config.notice_s, 0.0)
    leaving = asyncio.create_task(_leave(apps, left_s - _LAST_S))
    try:
        await server.stop(left_s)
    finally:
        leaving.cancel()


async def _leave(apps: Sequence[App], after_s: float) -> None:
    """Ends what would go on for ever, while there is time to tell its callers: they would take a cut for their own."""
    await asyncio.sleep(after_s)
    for app in apps:
        for leave in app.leavers:
            await asyncio.shield(leave())  # what it began to end is not cut short by the calls' own end


@contextmanager
def _binding(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # grpc's is a RuntimeError
        raise CannotStart(f"cannot listen on {address}") from error


def _watch_loop(vitals: Vitals, observe: Callable[[float], None]) -> Callable[[], None]:
    """Has the loop tell that it turns, and how late; what it returns ends that."""

    def turned(late_s: float) -> None:
        vitals.moved()
        observe(late_s)

    return watch_lag(turned)


async def _watch_readiness(apps: Sequence[App], status: health.aio.HealthServicer, vitals: Vitals) -> None:
    """Keeps what is said of health true: overall (``) and per proto service, and to probes."""
    said: dict[str, str] | None = None
    while True:
        waiting = {}
        for app in apps:
            try:
                async with asyncio.timeout(_CHECK_TIMEOUT_S):
                    await ready(app.checks)
            except TimeoutError:
                waiting[app.name] = "the checks took too long"
            except Unavailable as error:
                waiting[app.name] = error.message
            serving = _NOT_SERVING if app.name in waiting else _SERVING
            if service := topology.PROCESSES[app.name].proto_service:
                await status.set(service, serving)
        vitals.say(ready=not waiting)
        await status.set("", _NOT_SERVING if waiting else _SERVING)
        if waiting != said:
            log.info("not ready" if waiting else "ready", **waiting)
            said = waiting
        await asyncio.sleep(_WAIT_EVERY_S if waiting else _CHECK_EVERY_S)


async def _knock(host: str, port: int) -> None:
    """Has gRPC ask for the certificates now, while nobody else connects; peers open their channels anew soon."""
    address = "127.0.0.1" if host in {"", "0.0.0.0", "::", "[::]"} else host
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_KNOCK_TIMEOUT_S):
            _, writer = await asyncio.open_connection(address, port)
        writer.close()


async def _told_to_stop() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, told.set)
    await told.wait()
