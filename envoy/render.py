"""Builds Envoy's configuration from `services/kit/topology.py`, the protos, and an `Edge`: what differs between places.

`python envoy/render.py` writes the cluster's into this folder; it is committed. `--check` writes nothing and fails,
showing the difference, when a committed file is not what would be written. `--edge FILE` reads an `Edge` as JSON and
writes that installation's configuration into the folder it names.
"""

import difflib
import json
import sys
from pathlib import Path

import yaml
from browsers import browser_filters, cors_policy, stranger_filters
from clusters import BUFFER_BYTES, cluster, collector
from edge import Edge
from identity import dropped_headers, identity_filters, proof_filters
from keyset import internal_listeners, key_clusters, key_listeners
from limits import overload_manager, protocol_limits, runtime, tenant_filters
from replies import local_reply_config
from routes import MAX_REQUEST_BYTES, elsewhere, public_methods, route
from sds import secrets
from shapes import TYPES, Yaml, address, http_filter, named
from sockets import downstream
from watching import COLLECTOR, access_log, tracing

from services.kit.topology import SERVICES, Service

HERE = Path(__file__).resolve().parent
MAX_RESPONSE_BYTES = 4 * 1024 * 1024
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the one in C is six times as fast


def main(arguments: list[str]) -> int:
    """Writes the files, or with `--check` compares them. Returns the exit status."""
    match arguments:
        case []:
            write(Edge(), HERE)
            return 0
        case ["--check"]:
            return check(Edge(), HERE)
        case ["--edge", file]:
            edge = Edge.from_json(json.loads(Path(file).read_text()))
            write(edge, Path(edge.folder))
            return 0
    sys.stderr.write("usage: python envoy/render.py [--check | --edge FILE]\n")
    return 2


def write(edge: Edge, folder: Path) -> None:
    """Writes the configuration of an installation, and removes what another one left there."""
    files = render(edge)
    for left in set(folder.glob("secret-*.yaml")) - {folder / name for name in files}:
        left.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)


def check(edge: Edge, folder: Path) -> int:
    """Shows how the files in `folder` differ from what would be written. Returns the exit status."""
    files = render(edge)
    there = {path.name: path.read_text() for path in folder.glob("*.yaml") if path.name in files or _is_secret(path)}
    for name in sorted(files.keys() | there.keys()):
        before, after = (texts.get(name, "").splitlines(True) for texts in (there, files))
        names = (f"envoy/{name} as it is", f"envoy/{name} as it would be written")
        sys.stdout.writelines(difflib.unified_diff(before, after, *names))
    return int(there != files)


def _is_secret(path: Path) -> bool:
    return path.name.startswith("secret-")


def render(edge: Edge) -> dict[str, str]:
    """The configuration as text, by the names of its files."""
    files = {"envoy.yaml": bootstrap(edge), **secrets(edge)}
    return {name: _text(content) for name, content in files.items()}


def _text(content: Yaml) -> str:
    document = yaml.dump(content, Dumper=_DUMPER, sort_keys=False, width=120)
    return f"# Written by envoy/render.py from services/kit/topology.py and the protos. Do not edit.\n{document}"


def bootstrap(edge: Edge) -> Yaml:
    """The whole configuration: admin, the listener with its routes and filters, clusters, limits of the process."""
    public = [service for service in SERVICES.values() if service.public]
    return {
        "node": {"id": "envoy", "cluster": "envoy"},
        "admin": {"address": address(edge.admin)},
        "static_resources": {
            "listeners": [listener(edge, public), *key_listeners(edge)],
            "clusters": [
                *(cluster(edge, service) for service in public),
                *key_clusters(edge),
                collector(COLLECTOR, edge.collector),
            ],
        },
        **internal_listeners(),
        "overload_manager": overload_manager(edge),
        "layered_runtime": runtime(),
    }


def listener(edge: Edge, public: list[Service]) -> Yaml:
    """The one port: gRPC, gRPC-Web, JSON and server-sent events."""
    manager = named("envoy.filters.network.http_connection_manager", connection_manager(edge, public))
    return {
        "name": "edge",
        "address": address(edge.listen),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [{"filters": [manager], **downstream(edge)}],
    }


def connection_manager(edge: Edge, public: list[Service]) -> Yaml:
    """HTTP at the edge."""
    routes = [route(service, method) for service in public for method in public_methods(service)]
    host = {"name": "edge", "domains": ["*"], "routes": [*routes, elsewhere()], **cors_policy(edge)}
    return {
        "@type": f"{TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "codec_type": "AUTO",
        "route_config": {"name": "public_methods", "virtual_hosts": [host], "validate_clusters": False},
        "http_filters": http_filters(edge, public),
        **_origin(edge),
        **dropped_headers(edge),
        **protocol_limits(),
        **access_log(edge),
        **tracing(edge),
        "local_reply_config": local_reply_config(edge, MAX_REQUEST_BYTES),
    }


def _origin(edge: Edge) -> Yaml:
    """Where a request came from, and its id: nothing that it says of itself is believed.

    The range of internal addresses is one that no client has; an empty list would still trust the loopback.
    """
    return {
        "use_remote_address": True,
        "xff_num_trusted_hops": edge.trusted_hops,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "192.0.2.1", "prefix_len": 32}]},
        "generate_request_id": True,
        "preserve_external_request_id": False,
        "always_set_request_id_in_response": True,
        "server_header_transformation": "PASS_THROUGH",
        "strip_any_host_port": True,
    }


def http_filters(edge: Edge, public: list[Service]) -> list[Yaml]:
    """What each request passes, in this order.

    Who calls is known before anything of the request's body is read; a tenant over its limit costs no memory. The
    buffer is off but where a route turns it on. The proof to be Envoy is added last.
    """
    buffer = http_filter("buffer", "Buffer", max_request_bytes=MAX_REQUEST_BYTES)
    return [
        *stranger_filters(edge),
        *browser_filters(edge),
        *identity_filters(edge),
        *tenant_filters(edge),
        {**buffer, "disabled": True},
        http_filter("grpc_json_transcoder", "GrpcJsonTranscoder", **transcoder(edge, public)),
        *proof_filters(edge),
        http_filter("router", "Router", suppress_envoy_headers=True),
    ]


def transcoder(edge: Edge, public: list[Service]) -> Yaml:
    """JSON to gRPC and back, by the HTTP annotations of the protos.

    Fields are printed under the names the protos give them, which are also those of an agent's file; and fields that
    are zero are printed, so that a reader needs to know no defaults.
    """
    return {
        "proto_descriptor": edge.descriptors,
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
