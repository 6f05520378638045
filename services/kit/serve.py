"""Runs services in this process: binds, reports health, drains on SIGTERM, closes in reverse."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.kit import topology
from services.kit.app import App, Kit, KitConfig, open_kit, ready
from services.kit.call import Call
from services.kit.chain import Endpoint, Registry
from services.kit.config import ConfigError, describe, load
from services.kit.errors import ServiceError, Unavailable
from services.kit.lag import watch_lag
from services.kit.probes import Vitals, serve_probes
from services.kit.status import to_status
from services.kit.telemetry import log_to_stdout

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
# Channels retry what never reached a handler. An answer is an answer, UNAVAILABLE too: asking three times makes a slow
# backend slower, and the caller wait three times as long. Source: gRFC A6, server pushback.
_NO_RETRY = ("grpc-retry-pushback-ms", "-1")
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.so_reuseport", 0),  # a second process on the same port is a mistake, not a replica
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),  # gRPC's 4 MiB are too few for documents, or a turn's end
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1_000),  # on a connection, as Envoy assumes: with more calls, it opens another
    ("grpc.max_connection_age_ms", 600_000),  # callers look the name up again, and find new replicas
    ("grpc.max_connection_age_grace_ms", 960_000),  # the longest stream, `STREAM_TIMEOUT_S`, ends by itself
    ("grpc.http2.max_ping_strikes", 0),  # callers ping while calls wait: counted, that ends a call after 4 s
    ("grpc.keepalive_permit_without_calls", 1),
]


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
        vitals = Vitals()
        registries = [kit.registry(app) for app in apps]
        row = topology.PROCESSES[apps[0].name]
        server, status = grpc_server(registries)
        address = f"{config.host}:{config.port or row.port}"
        with _binding(address):
            if kit.certificates is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, kit.certificates.server())
        await status.set(LIVENESS, _SERVING)
        for service in ("", *(topology.PROCESSES[app.name].proto_service for app in apps)):
            await status.set(service, _NOT_SERVING)  # until the checks have passed: grpc's own default is SERVING
        await server.start()
        closing.push_async_callback(server.stop, 0)
        if config.metrics_port >= 0:
            port = config.metrics_port or row.metrics_port
            with _binding(f"{config.host}:{port}"):
                closing.callback(serve_probes(config.host, port, vitals, kit.telemetry.metrics))
        # What was made until here stays to the end, and calls leave few cycles: the collector looks less often.
        gc.freeze()
        gc.set_threshold(_GC_EVERY)
        gc.enable()  # our programs begin without: looking for it among what they import costs a sixth of the start
        watch = asyncio.create_task(_watch_readiness(apps, status, vitals))
        closing.callback(watch.cancel)
        closing.callback(_watch_loop(vitals, kit.telemetry.load.lag.observe))
        if kit.certificates is not None:
            following = kit.certificates.follow(taken=lambda: _knock(config.host, config.port or row.port))
            closing.callback(asyncio.create_task(following).cancel)
        log.info("listening", address=address)
        await _told_to_stop()
        log.info("draining", seconds=config.drain_s)
        for app in apps:
            for drain in app.drainers:
                drain()
        watch.cancel()
        vitals.say(ready=False)
        await status.enter_graceful_shutdown()
        await asyncio.sleep(config.notice_s)  # gRPC breaks calls off that arrive while it stops to listen
        left_s = max(config.drain_s - config.notice_s, 0.0)
        leaving = asyncio.create_task(_leave(apps, left_s - _LAST_S))
        closing.callback(leaving.cancel)
        await server.stop(left_s)
    log.info("stopped")


def grpc_server(registries: Sequence[Registry]) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A server of these methods with health and reflection, neither bound nor started, and its health."""
    server = grpc.aio.server(options=_OPTIONS)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    names = [name for registry in registries for name in registry.services]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    server.add_generic_rpc_handlers([_Handlers(registry) for registry in registries])
    return server, status


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


class _Handlers(grpc.GenericRpcHandler):
    """The socket's driver of the chain."""

    def __init__(self, registry: Registry) -> None:
        self._handlers: dict[str, Any] = {
            path: grpc.unary_stream_rpc_method_handler(_stream(endpoint))
            if endpoint.method.streams
            else grpc.unary_unary_rpc_method_handler(_unary(endpoint))
            for path, endpoint in registry.endpoints.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


def _call(endpoint: Endpoint, body: bytes, context: Any) -> Call:
    remaining = context.time_remaining()
    return Call(
        method=endpoint.method.path,
        metadata={key: value for key, value in context.invocation_metadata() if isinstance(value, str)},
        deadline=None if remaining is None else asyncio.get_running_loop().time() + remaining,
        peer=context.peer(),
        body=body,
    )


async def _refuse(context: Any, error: ServiceError) -> NoReturn:
    status = to_status(error)
    await context.abort(status.code, status.message, (*status.trailers, _NO_RETRY))
    raise AssertionError("abort returned")


def _unary(endpoint: Endpoint) -> Any:
    async def behaviour(body: bytes, context: Any) -> bytes:
        call = _call(endpoint, body, context)
        try:
            reply = await endpoint.unary(call)
        except ServiceError as error:
            await _refuse(context, error)
        if call.reply_metadata:
            await context.send_initial_metadata(tuple(call.reply_metadata.items()))
        return reply

    return behaviour


def _stream(endpoint: Endpoint) -> Any:
    async def behaviour(body: bytes, context: Any) -> None:
        try:
            await endpoint.stream(_call(endpoint, body, context), context.write)
        except ServiceError as error:
            await _refuse(context, error)

    return behaviour
