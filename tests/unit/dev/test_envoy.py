"""What Envoy is told on this machine."""

import resource
from pathlib import Path

import pytest

from services.dev.engines import envoy

KEYS = Path("/keys")


def test_in_the_open_nobody_is_asked_for_anything() -> None:
    edge = envoy.local("127.0.0.1:8123", "127.0.0.1:9923", {"orchestrator": ("127.0.0.1:7177",)})
    assert {name for name, value in edge.items() if value is None} == {
        "jwt", "mesh_token", "tls", "upstream_tls", "tenant_rps",
    }  # fmt: skip


@pytest.mark.parametrize(("descriptors", "connections"), [(1024, 409), (1_048_576, 12_000)])
def test_it_takes_no_more_connections_than_descriptors_suffice_for(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _limit: (descriptors, descriptors))
    assert envoy.local("", "", {})["max_connections"] == connections


def test_tokens_are_asked_for_with_the_keys_that_sign_them_and_with_the_meshs_proof() -> None:
    fields = envoy.with_keys(KEYS, auth=True, tls=False)
    assert set(fields) == {"jwt", "mesh_token"}
    assert (fields["jwt"]["jwks"], fields["mesh_token"]) == ("/keys/jwks.json", "/keys/mesh.token")


def test_tls_is_spoken_on_both_sides() -> None:
    fields = envoy.with_keys(KEYS, auth=False, tls=True)
    shown = {"certificate": "/keys/envoy.pem", "key": "/keys/envoy.key"}
    assert fields == {"tls": shown, "upstream_tls": {**shown, "ca": "/keys/ca.pem"}}


def test_spans_go_where_the_services_send_theirs() -> None:
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    assert envoy.spans(told) == {"collector": "localhost:4317", "trace_ratio": 0.01}


def test_without_a_collector_no_span_goes_anywhere() -> None:
    assert envoy.spans({}) == {"collector": None, "trace_ratio": 1.0}
