"""Builds Envoy's configuration from `services/kit/topology.py` and the protos.

`python envoy/render.py` writes envoy/envoy.yaml, which is committed. `--check` writes nothing and fails, showing the
difference, when the committed file is not what would be written.

The file is the cluster's: services by their names there, descriptors in /etc/envoy. The launcher of the stack on one
machine loads it and replaces addresses and that path; all else is the same.
"""

import difflib
import sys
from pathlib import Path

import yaml
from clusters import BUFFER_BYTES, cluster
from limits import overload_manager, protocol_limits, runtime
from replies import local_reply_config
from routes import public_methods, route
from shapes import TYPES, Yaml, address, named

from services.kit.topology import ENDPOINTS, SERVICES, Service

TARGET = Path(__file__).resolve().parent / "envoy.yaml"
DESCRIPTORS = "/etc/envoy/descriptors.pb"
MAX_REQUEST_BYTES = 256 * 1024
MAX_RESPONSE_BYTES = 4 * 1024 * 1024


def main(arguments: list[str]) -> int:
    """Writes the file, or with `--check` compares it. Returns the exit status."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python envoy/render.py [--check]\n")
        return 2
    text = render()
    if not arguments:
        TARGET.write_text(text)
        return 0
    committed = TARGET.read_text() if TARGET.exists() else ""
    names = ("envoy/envoy.yaml as it is", "envoy/envoy.yaml as it would be written")
    sys.stdout.writelines(difflib.unified_diff(committed.splitlines(True), text.splitlines(True), *names))
    return int(committed != text)


def render() -> str:
    """The configuration as text."""
    document = yaml.safe_dump(bootstrap(), sort_keys=False, width=120)
    return f"# Written by envoy/render.py from services/kit/topology.py and the protos. Do not edit.\n{document}"


def bootstrap() -> Yaml:
    """The whole configuration: admin, the listener with its routes and filters, clusters, limits of the process."""
    public = [service for service in SERVICES.values() if service.public]
    return {
        "admin": {"address": address("127.0.0.1", ENDPOINTS["envoy_admin"].port)},
        "static_resources": {
            "listeners": [listener(public)],
            "clusters": [cluster(service) for service in public],
        },
        "overload_manager": overload_manager(),
        "layered_runtime": runtime(),
    }


def listener(public: list[Service]) -> Yaml:
    """The one port: gRPC, gRPC-Web, JSON and server-sent events."""
    manager = named("envoy.filters.network.http_connection_manager", connection_manager(public))
    return {
        "name": "edge",
        "address": address("0.0.0.0", ENDPOINTS["envoy"].port),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [{"filters": [manager]}],
    }


def connection_manager(public: list[Service]) -> Yaml:
    """HTTP at the edge."""
    routes = [route(service, method) for service in public for method in public_methods(service)]
    return {
        "@type": f"{TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "codec_type": "AUTO",
        "route_config": {
            "name": "public_methods",
            "virtual_hosts": [{"name": "edge", "domains": ["*"], "routes": routes}],
        },
        "http_filters": http_filters(public),
        **_origin(),
        **protocol_limits(),
        "local_reply_config": local_reply_config(MAX_REQUEST_BYTES),
    }


def _origin() -> Yaml:
    """Where a request came from, and its id: nothing that it says of itself is believed.

    The range of internal addresses is one that no client has; an empty list would still trust the loopback.
    """
    return {
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "192.0.2.1", "prefix_len": 32}]},
        "generate_request_id": True,
        "preserve_external_request_id": False,
        "always_set_request_id_in_response": True,
        "server_header_transformation": "PASS_THROUGH",
        "strip_any_host_port": True,
    }


def http_filters(public: list[Service]) -> list[Yaml]:
    """What each request passes, in this order.

    The buffer waits for the whole request, and limits it: every public method takes one message, none a stream.

    Identity comes first: a filter that verifies the caller's token and sets the `x-myriad-*` headers from its claims
    has its place before `buffer`. Without one those headers pass as sent, and only services that run with
    `MYRIAD_AUTH=insecure-dev` believe them.
    """
    buffer = {"@type": f"{TYPES}extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": MAX_REQUEST_BYTES}
    grpc_web = {"@type": f"{TYPES}extensions.filters.http.grpc_web.v3.GrpcWeb"}
    router = {"@type": f"{TYPES}extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}
    return [
        named("envoy.filters.http.buffer", buffer),
        named("envoy.filters.http.grpc_web", grpc_web),
        named("envoy.filters.http.grpc_json_transcoder", transcoder(public)),
        named("envoy.filters.http.router", router),
    ]


def transcoder(public: list[Service]) -> Yaml:
    """JSON to gRPC and back, by the HTTP annotations of the protos.

    Fields are printed under the names the protos give them, which are also those of an agent's file; and fields that
    are zero are printed, so that a reader needs to know no defaults.
    """
    return {
        "@type": f"{TYPES}extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": DESCRIPTORS,
        "services": [service.proto_service for service in public],
        "auto_mapping": False,
        "convert_grpc_status": True,
        "ignore_unknown_query_parameters": False,
        "case_insensitive_enum_parsing": False,
        "max_request_body_size": MAX_REQUEST_BYTES,
        "max_response_body_size": MAX_RESPONSE_BYTES,
        "request_validation_options": {
            "reject_unknown_method": True,
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        "print_options": {
            "always_print_primitive_fields": True,
            "preserve_proto_field_names": True,
            "stream_sse_style_delimited": True,
        },
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
