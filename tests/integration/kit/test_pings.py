"""Callers ping while a call waits, to find a server that stands still. That must not end the call."""

import asyncio

import grpc

from services.kit.grpc_server import grpc_server

LONG_S = 5.0
"""gRPC's client pings no more than once a second, and a server that counts breaks off at the third or fourth."""
PINGS = (("grpc.keepalive_time_ms", 100), ("grpc.http2.max_pings_without_data", 0))


async def slow(body, context):
    await asyncio.sleep(LONG_S)
    return body


async def answer_of(server):
    """What a client that pings gets from a slow method of `server`: its answer, or the code it failed with."""
    handlers = {"Slow": grpc.unary_unary_rpc_method_handler(slow)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Slow", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=PINGS) as channel:
            return await channel.unary_unary("/test.Slow/Slow")(b"answer", timeout=3 * LONG_S)
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        await server.stop(0)


async def test_a_call_outlasts_its_callers_pings_and_control_a_server_that_counts_them_ends_it():
    counting = grpc.aio.server(options=(("grpc.http2.min_recv_ping_interval_without_data_ms", 500),))
    ours, _ = grpc_server([])
    assert await asyncio.gather(answer_of(ours), answer_of(counting)) == [b"answer", grpc.StatusCode.UNAVAILABLE]
