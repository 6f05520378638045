"""The attacks that Envoy's guards stop succeed when the guards are off: so the tests of the guards can fail."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from myriad.orchestrator.v1 import run_pb2, sessions_pb2
from tests.integration.edge.envoys import ORCHESTRATOR, SERVING, http_filter, manager, running_stub
from tests.integration.edge.grpc_web import CONTENT, encoded
from tests.integration.edge.guarded import FORGED, MESH_TOKEN, ORIGIN, RPS, Guarded, running_guarded
from tests.integration.edge.raw import code_of, get, http1

PATH = "/v1/runs/s.1"


def take_the_guards_away(document: Any) -> None:
    """Each line is one guard."""
    provider = http_filter(document, "jwt_authn")["providers"]["issuer"]
    del provider["from_headers"]
    del provider["max_lifetime"]
    provider["require_expiration"] = False
    del manager(document)["early_header_mutation_extensions"]
    provider["claim_to_headers"] = [each for each in provider["claim_to_headers"] if each["claim_name"] != "roles"]
    (host,) = manager(document)["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        route.pop("request_headers_to_add", None)
        del route["typed_per_filter_config"]["envoy.filters.http.buffer"]
    del document["static_resources"]["clusters"][0]["common_lb_config"]
    manager(document)["http_filters"] = [
        each
        for each in manager(document)["http_filters"]
        if each["name"] not in {"envoy.filters.http.rbac", "envoy.filters.http.local_ratelimit"}
    ]
    for origins in host["typed_per_filter_config"]["envoy.filters.http.cors"]["allow_origin_string_match"]:
        origins["prefix"] = origins.pop("exact")
    manager(document)["common_http_protocol_options"]["headers_with_underscores_action"] = "ALLOW"
    manager(document)["path_with_escaped_slashes_action"] = "UNESCAPE_AND_FORWARD"
    manager(document)["normalize_path"] = False
    manager(document)["merge_slashes"] = False
    manager(document)["max_request_headers_kb"] = 96
    manager(document)["common_http_protocol_options"]["max_headers_count"] = 1_000
    manager(document)["http_protocol_options"] = {"allow_chunked_length": True}
    manager(document)["use_remote_address"] = False
    del manager(document)["internal_address_config"]
    transcoder = http_filter(document, "grpc_json_transcoder")
    del transcoder["request_validation_options"]
    transcoder["ignore_unknown_query_parameters"] = True


@pytest_asyncio.fixture(scope="module")
async def unguarded(backend: object, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """The guarded Envoy without its guards, in front of a stub of its own."""
    async with (
        running_stub() as stub,
        running_guarded(tmp_path_factory.mktemp("unguarded"), stub, take_the_guards_away) as running,
    ):
        yield running


async def test_a_token_in_the_query_counts(unguarded: Guarded) -> None:
    path = f"/myriad.orchestrator.v1.OrchestratorService/GetRun?access_token={unguarded.issuer.token(sub='query')}"
    body = encoded(run_pb2.GetRunRequest(run_id="s.1"), "binary")
    reply = await unguarded.edge.http.post(path, content=body, headers=CONTENT["binary"])
    assert reply.status_code == 200
    assert unguarded.edge.stub.seen[-1].metadata["x-myriad-user"] == "query"


@pytest.mark.parametrize("claims", [{"exp": None}, {"exp": time.time() + 10 * 86_400}], ids=["no expiry", "long-lived"])
async def test_a_token_that_lives_too_long_counts(unguarded: Guarded, claims: dict[str, Any]) -> None:
    assert (await unguarded.edge.http.get(PATH, headers=unguarded.sent(**claims))).status_code == 200


async def test_a_caller_gives_itself_roles(unguarded: Guarded) -> None:
    assert (await unguarded.edge.http.get(PATH, headers={**unguarded.sent(roles=None), **FORGED})).status_code == 200
    assert unguarded.edge.stub.seen[-1].metadata["x-myriad-roles"] == "admin"
    assert unguarded.edge.stub.seen[-1].metadata["x-myriad-mesh-token"] == MESH_TOKEN  # another guard, still there


async def test_a_token_without_a_tenant_reaches_the_service(unguarded: Guarded) -> None:
    assert (await unguarded.edge.http.get(PATH, headers=unguarded.sent(tenant=None))).status_code == 200


async def test_a_request_over_the_limit_reaches_the_service(unguarded: Guarded) -> None:
    request = sessions_pb2.CreateSessionRequest(agent="a" * 300_000)
    metadata = tuple(unguarded.sent().items())
    response = await unguarded.edge.orchestrator.CreateSession(request, metadata=metadata, timeout=5)
    assert len(response.session.agent) == 300_000


async def test_a_call_in_json_has_no_deadline(unguarded: Guarded) -> None:
    assert (await unguarded.edge.http.get(PATH, headers=unguarded.sent())).status_code == 200
    assert unguarded.edge.stub.seen[-1].seconds_left is None


async def test_a_tenant_takes_all_it_wants(unguarded: Guarded) -> None:
    headers = unguarded.sent(tenant="loud")
    for _ in range(8):
        replies = await asyncio.gather(*(unguarded.edge.http.get(PATH, headers=headers) for _ in range(RPS // 2)))
        assert {reply.status_code for reply in replies} == {200}


async def test_a_page_of_a_similar_origin_reads_replies(unguarded: Guarded) -> None:
    origin = f"{ORIGIN}.elsewhere.test"
    reply = await unguarded.edge.http.get(PATH, headers={"origin": origin, **unguarded.sent()})
    assert reply.headers["access-control-allow-origin"] == origin


async def test_an_underscore_and_an_escaped_slash_pass(unguarded: Guarded) -> None:
    reply = await unguarded.edge.http.get("/v1%2Fruns/s.1", headers={"x_myriad_user": "root", **unguarded.sent()})
    assert reply.status_code == 200
    assert unguarded.edge.stub.seen[-1].metadata["x_myriad_user"] == "root"


async def test_what_no_method_has_is_ignored_and_a_body_says_another_thing_than_its_path(unguarded: Guarded) -> None:
    headers = unguarded.sent()
    reply = await unguarded.edge.http.get(f"{PATH}:watch?nonexistent=1", headers=headers)
    assert reply.status_code == 200
    body = {"input": "late", "session_id": "other"}
    reply = await unguarded.edge.http.post("/v1/sessions/s:run", json=body, headers=headers)
    assert reply.status_code == 200
    assert unguarded.edge.stub.seen[-1].request.session_id == "other"  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", ["", "{}", '{"agent": "play\\u0000er"}', '{"agent": "../player"}', '{"agent": null}'])
async def test_what_envoy_passes_on_is_refused_by_the_service_or_by_nobody(unguarded: Guarded, body: str) -> None:
    headers = {**unguarded.sent(), "content-type": "application/json"}
    assert (await unguarded.edge.http.post("/v1/sessions", content=body, headers=headers)).status_code == 200


async def test_a_schema_that_a_service_would_never_take_is_an_error_to_print(unguarded: Guarded) -> None:
    reply = await unguarded.edge.http.get("/v1/agents/deep", headers=unguarded.sent())
    assert reply.status_code == 502


async def test_a_path_is_taken_as_it_came(unguarded: Guarded) -> None:
    (token,) = unguarded.sent().items()
    line = ": ".join(token)
    codes = {
        path: code_of(await http1(unguarded.edge.address, get(path, line)))
        for path in ("/v1//runs///s.1", "/v1/./runs/s.1")
    }
    assert codes == dict.fromkeys(codes, 404)
    assert code_of(await http1(unguarded.edge.address, get("/v1/runs/..", line))) == 200
    assert unguarded.edge.stub.seen[-1].request.run_id == ".."  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "more",
    [{"x-large": "x" * 20_000}, {f"x-{number}": "1" for number in range(80)}],
    ids=["20 kB", "80 headers"],
)
async def test_large_and_many_headers_pass(unguarded: Guarded, more: dict[str, str]) -> None:
    assert (await unguarded.edge.http.get(PATH, headers={**unguarded.sent(), **more})).status_code == 200
    assert more.items() <= unguarded.edge.stub.seen[-1].metadata.items()


async def test_a_body_has_a_length_and_chunks(unguarded: Guarded) -> None:
    lines = [f"{name}: {value}" for name, value in unguarded.sent().items()]
    lines += ["content-type: application/json", "content-length: 5", "transfer-encoding: chunked"]
    request = get("/v1/sessions", *lines).replace(b"GET", b"POST", 1) + b"2\r\n{}\r\n0\r\n\r\n"
    assert code_of(await http1(unguarded.edge.address, request)) == 200


async def test_a_caller_says_where_it_comes_from(unguarded: Guarded) -> None:
    forged = {
        "x-forwarded-for": "192.0.2.77",
        "x-forwarded-proto": "https",
        "x-envoy-external-address": "192.0.2.77",
    }
    await unguarded.edge.http.get(PATH, headers={**unguarded.sent(), **forged})
    assert forged.items() <= unguarded.edge.stub.seen[-1].metadata.items()


async def test_a_replica_that_is_known_to_be_dead_is_called(unguarded: Guarded) -> None:
    edge = unguarded.edge
    await edge.health.set(ORCHESTRATOR, health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        async with asyncio.timeout(20):
            while "failed_active_hc" not in (await edge.http.get(f"http://{edge.admin}/clusters")).text:  # noqa: ASYNC110 - in Envoy
                await asyncio.sleep(0.1)
        assert (await edge.http.get(PATH, headers=unguarded.sent())).status_code == 200
    finally:
        await edge.health.set(ORCHESTRATOR, SERVING)
