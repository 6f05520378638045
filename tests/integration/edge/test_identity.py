"""Who calls: only verified tokens count, and only Envoy says whose they are."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import pytest

from myriad.orchestrator.v1 import run_pb2
from services.kit import errors, status
from tests.integration.edge.envoys import Edge
from tests.integration.edge.grpc_web import CONTENT, encoded
from tests.integration.edge.guarded import FORGED, MESH_TOKEN, Guarded
from tests.integration.edge.tokens import Issuer, bearer

PATH = "/v1/runs/s.1"

# What the caller sends, by what is wrong with it.
REFUSED: dict[str, Callable[[Guarded], dict[str, str]]] = {
    "no token": lambda _: {},
    "another scheme": lambda guarded: {"authorization": f"Basic {guarded.issuer.token()}"},
    "no scheme": lambda guarded: {"authorization": guarded.issuer.token()},
    "no token after the scheme": lambda _: {"authorization": "Bearer"},
    "garbage": lambda _: bearer("a.b.c"),
    "a cut token": lambda guarded: bearer(guarded.issuer.token()[:-8]),
    "expired": lambda guarded: guarded.sent(exp=time.time() - 60),
    "not yet": lambda guarded: guarded.sent(nbf=time.time() + 300),
    "no expiry": lambda guarded: guarded.sent(exp=None),
    "too long-lived": lambda guarded: guarded.sent(exp=time.time() + 10 * 86_400),
    "another issuer": lambda guarded: guarded.sent(iss="https://elsewhere.test"),
    "no issuer": lambda guarded: guarded.sent(iss=None),
    "another key": lambda _: bearer(Issuer().token()),
    "a key of an unknown name": lambda _: bearer(Issuer("unknown").token()),
    "algorithm none": lambda guarded: bearer(guarded.issuer.unsigned()),
    "the public key as a shared secret": lambda guarded: bearer(guarded.issuer.confused()),
}
NOT_ALLOWED: dict[str, Callable[[Guarded], dict[str, str]]] = {
    "another audience": lambda guarded: guarded.sent(aud="elsewhere"),
    "no audience": lambda guarded: guarded.sent(aud=None),
    "no tenant": lambda guarded: {**guarded.sent(tenant=None), **FORGED},
    "an empty tenant": lambda guarded: guarded.sent(tenant=""),
    "no user": lambda guarded: {**guarded.sent(sub=None), **FORGED},
}


def reason(reply: httpx.Response) -> str:
    """The reason in an error of ours."""
    return str(reply.json()["details"][0]["reason"])


@pytest.mark.parametrize("wrong", REFUSED)
async def test_a_call_without_a_valid_token_is_unauthenticated(guarded: Guarded, wrong: str) -> None:
    headers = REFUSED[wrong](guarded)
    reply = await guarded.edge.http.get(PATH, headers=headers)
    assert (reply.status_code, reason(reply)) == (401, "UNAUTHENTICATED")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert isinstance(await error_of(guarded, headers), errors.Unauthenticated)
    assert guarded.edge.stub.seen == []


@pytest.mark.parametrize("wrong", NOT_ALLOWED)
async def test_a_valid_token_that_names_nobody_here_is_denied(guarded: Guarded, wrong: str) -> None:
    headers = NOT_ALLOWED[wrong](guarded)
    reply = await guarded.edge.http.get(PATH, headers=headers)
    assert (reply.status_code, reason(reply)) == (403, "PERMISSION_DENIED")
    assert isinstance(await error_of(guarded, headers), errors.PermissionDenied)
    assert guarded.edge.stub.seen == []


async def error_of(guarded: Guarded, headers: dict[str, str]) -> errors.ServiceError:
    """What a gRPC caller is told."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await guarded.edge.orchestrator.GetRun(
            run_pb2.GetRunRequest(run_id="s.1"), metadata=tuple(headers.items()), timeout=5
        )
    return status.from_rpc_error(raised.value, "edge")


@pytest.mark.parametrize("name", ["access_token", "token", "jwt", "authorization"])
async def test_a_token_in_the_query_does_not_count_and_is_not_repeated(guarded: Guarded, name: str) -> None:
    token = guarded.issuer.token()
    reply = await guarded.edge.http.get(f"{PATH}?{name}={token}")
    assert (reply.status_code, reason(reply)) == (401, "UNAUTHENTICATED")
    assert token not in reply.text + str(reply.headers)
    path = f"/myriad.orchestrator.v1.OrchestratorService/GetRun?{name}={token}"
    body = encoded(run_pb2.GetRunRequest(run_id="s.1"), "binary")
    reply = await guarded.edge.http.post(path, content=body, headers=CONTENT["binary"])
    assert reply.headers["grpc-status"] == "16"
    assert guarded.edge.stub.seen == []


@pytest.mark.parametrize("first", ["acme", "other"])
async def test_two_tokens_are_refused_whichever_comes_first(guarded: Guarded, first: str) -> None:
    tokens = [guarded.issuer.token(tenant=first), guarded.issuer.token(tenant="third")]
    reply = await guarded.edge.http.get(PATH, headers=[("authorization", f"Bearer {token}") for token in tokens])
    assert (reply.status_code, reason(reply)) == (403, "PERMISSION_DENIED")
    assert guarded.edge.stub.seen == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_a_good_token_says_who_calls_and_goes_no_further(guarded: Guarded, scheme: str) -> None:
    token = guarded.issuer.token(tenant="acme", sub="ann", roles="user editor")
    reply = await guarded.edge.http.get(PATH, headers={"authorization": f"{scheme} {token}", **FORGED})
    assert reply.status_code == 200
    seen = guarded.edge.stub.seen[-1].metadata
    assert {name: value for name, value in seen.items() if name.startswith("x-myriad-")} == {
        "x-myriad-tenant": "acme",
        "x-myriad-user": "ann",
        "x-myriad-roles": "user editor",
        "x-myriad-mesh-token": MESH_TOKEN,
    }
    assert "authorization" not in seen
    assert token not in str(seen)


async def test_a_good_token_counts_in_grpc_too(guarded: Guarded) -> None:
    metadata = tuple({**guarded.sent(tenant="grpc"), **FORGED}.items())
    await guarded.edge.orchestrator.GetRun(run_pb2.GetRunRequest(run_id="s.1"), metadata=metadata, timeout=5)
    seen = guarded.edge.stub.seen[-1].metadata
    assert (seen["x-myriad-tenant"], seen["x-myriad-mesh-token"]) == ("grpc", MESH_TOKEN)


async def test_an_audience_among_several_is_enough(guarded: Guarded) -> None:
    reply = await guarded.edge.http.get(PATH, headers=guarded.sent(aud=["elsewhere", "myriad"]))
    assert reply.status_code == 200


async def test_a_clock_that_is_half_a_minute_off_is_forgiven(guarded: Guarded) -> None:
    reply = await guarded.edge.http.get(PATH, headers=guarded.sent(exp=time.time() - 15))
    assert reply.status_code == 200


async def test_forged_roles_are_dropped_when_the_token_has_none(guarded: Guarded) -> None:
    reply = await guarded.edge.http.get(PATH, headers={**guarded.sent(roles=None), **FORGED})
    assert reply.status_code == 200
    assert "x-myriad-roles" not in guarded.edge.stub.seen[-1].metadata


async def test_what_envoy_says_of_a_request_cannot_be_said_by_its_sender(guarded: Guarded) -> None:
    forged = {
        "x-envoy-original-path": "/forged",
        "x-envoy-internal": "true",
        "x-envoy-external-address": "192.0.2.77",
        "x-envoy-max-retries": "9",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-forwarded-for": "192.0.2.77",
        "x-forwarded-proto": "https",
    }
    await guarded.edge.http.get(PATH, headers={**guarded.sent(), **forged})
    seen = guarded.edge.stub.seen[-1].metadata
    assert {name for name, value in forged.items() if seen.get(name) == value} == set()
    assert "192.0.2.77" not in str(seen)


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/myriad.memory.v1.MemoryService/GetBudget",
        "/keys",
        "/",
    ],
)
async def test_a_token_opens_no_internal_method(guarded: Guarded, path: str) -> None:
    call: Any = guarded.edge.channel.unary_unary(path, request_serializer=bytes)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(b"", metadata=tuple(guarded.sent().items()), timeout=5)
    assert isinstance(status.from_rpc_error(raised.value, "edge"), errors.Unimplemented)
    reply = await guarded.edge.http.get(path, headers=guarded.sent())
    assert (reply.status_code, reason(reply)) == (404, "UNIMPLEMENTED")


async def test_a_replaced_key_set_counts_without_a_restart(guarded: Guarded) -> None:
    second = Issuer("second")
    second.publish(guarded.jwks, guarded.issuer)
    try:
        await until(guarded, bearer(second.token()), 200)
        assert (await guarded.edge.http.get(PATH, headers=guarded.sent())).status_code == 200
    finally:
        guarded.issuer.publish(guarded.jwks)
    await until(guarded, bearer(second.token()), 401)


async def until(guarded: Guarded, headers: dict[str, str], code: int) -> None:
    """Waits until a call is answered so."""
    async with asyncio.timeout(20):
        while (await guarded.edge.http.get(PATH, headers=headers)).status_code != code:  # noqa: ASYNC110 - in Envoy
            await asyncio.sleep(0.1)


async def test_without_tokens_identity_is_believed_and_the_proof_of_the_mesh_is_not(edge: Edge) -> None:
    reply = await edge.http.get(PATH, headers=FORGED)
    assert reply.status_code == 200
    seen = edge.stub.seen[-1].metadata
    assert (seen["x-myriad-tenant"], seen["x-myriad-roles"]) == ("victim", "admin")
    assert "x-myriad-mesh-token" not in seen
