"""Envoy's own errors, in the shape of ours: callers in gRPC, gRPC-Web and JSON read the same `google.rpc.Status`.

Envoy's texts name addresses and connection states, so only what it says of a malformed request is passed on.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge import Edge
from google.protobuf import json_format
from google.rpc import status_pb2
from shapes import Yaml

from services.kit import errors, status

ENVOYS_TEXT = "%LOCAL_REPLY_BODY%"
"""Stands for what Envoy says itself."""

_NOT_ALLOWED = "the token is one of several, is for another audience, or names no tenant and user"
_STRANGER = "without tokens, only calls by a known host's name and from pages of known origins are taken"
_FROM_A_BROWSER = {"name": "x-grpc-web", "present_match": True}


@dataclass(frozen=True)
class Reply:
    """What Envoy answers when it does not reach a service."""

    http: int
    """Envoy's HTTP status."""

    error: errors.ServiceError
    """What callers see."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """What the answer carries besides."""

    or_above: bool = False
    """Whether it also stands for the statuses above that no row before it names."""


def replies(edge: Edge, max_request_bytes: int) -> tuple[Reply, ...]:
    """Every error that Envoy answers itself; the first row that fits is taken.

    An unknown path is UNIMPLEMENTED, not NOT_FOUND, so that a caller can tell it from an unknown resource.
    """
    not_allowed = _NOT_ALLOWED if edge.jwt else _STRANGER
    too_large = f"the request is larger than {max_request_bytes} bytes"
    return (
        Reply(401, errors.Unauthenticated("the call carries no valid token"), {"www-authenticate": "Bearer"}),
        Reply(403, errors.PermissionDenied(not_allowed)),
        Reply(404, errors.Unimplemented("there is no such method")),
        Reply(408, errors.DeadlineExceeded("the request took too long")),
        Reply(413, errors.ResourceExhausted(too_large)),
        Reply(429, errors.ResourceExhausted("the tenant sends too many requests", retry_after=1.0)),
        Reply(431, errors.ResourceExhausted("the request's headers are too large")),
        Reply(503, errors.ServiceUnavailable("the service does not answer", retry_after=1.0)),
        Reply(504, errors.DeadlineExceeded("the service did not answer in time")),
        Reply(500, errors.Internal("internal error"), or_above=True),
        Reply(400, errors.InvalidArgument(f"the request is malformed. {ENVOYS_TEXT}"), or_above=True),
    )


def local_reply_config(edge: Edge, max_request_bytes: int) -> Yaml:
    """The `local_reply_config` of the connection manager."""
    rows = replies(edge, max_request_bytes)
    return {"mappers": [mapper(row) for row in rows for mapper in (_for_web, _for_grpc, _for_json)]}


def _for_web(row: Reply) -> Yaml:
    """All in the headers of an empty reply with status 200: else Envoy makes up a code from the HTTP status."""
    constant = row.error.message.replace(ENVOYS_TEXT, "").rstrip()
    headers = {**_grpc_headers(row), "grpc-message": constant, **row.headers}
    return {
        "filter": {"and_filter": {"filters": [_status_is(row), *_asked_in_grpc(), _header_filter(_FROM_A_BROWSER)]}},
        "status_code": 200,
        **_with_headers(headers),
        "body_format_override": {"text_format_source": {"inline_string": ""}},
    }


def _for_grpc(row: Reply) -> Yaml:
    """Adds code and details as headers; Envoy sends the body as `grpc-message`."""
    return {
        "filter": {"and_filter": {"filters": [_status_is(row), *_asked_in_grpc()]}},
        **_with_headers({**_grpc_headers(row), **row.headers}),
        "body_format_override": {"text_format_source": {"inline_string": row.error.message}},
    }


def _for_json(row: Reply) -> Yaml:
    body = {"json_format": _json(status.to_proto(row.error))}
    return {"filter": _status_is(row), **_with_headers(row.headers), "body_format_override": body}


def _grpc_headers(row: Reply) -> dict[str, str]:
    proto = status.to_proto(row.error)
    headers = {"grpc-status": str(proto.code)}
    if ENVOYS_TEXT not in row.error.message:  # details repeat the message, and a constant cannot hold Envoy's
        headers["grpc-status-details-bin"] = base64.b64encode(proto.SerializeToString()).decode().rstrip("=")
    return headers


def _with_headers(headers: Mapping[str, str]) -> Yaml:
    added = [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in headers.items()
    ]
    return {"headers_to_add": added} if added else {}


def _json(proto: status_pb2.Status) -> Yaml:
    shape: Yaml = json.loads(json_format.MessageToJson(proto, preserving_proto_field_name=True))
    return shape


def _status_is(row: Reply) -> Yaml:
    comparison = {"op": "GE" if row.or_above else "EQ", "value": {"default_value": row.http, "runtime_key": "none"}}
    return {"status_code_filter": {"comparison": comparison}}


def _asked_in_grpc() -> list[Yaml]:
    """The transcoder makes a JSON request a gRPC one on its way, and leaves its path behind in a header."""
    content_type = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    transcoded = {"name": "x-envoy-original-path", "present_match": True, "invert_match": True}
    return [_header_filter(content_type), _header_filter(transcoded)]


def _header_filter(header: Yaml) -> Yaml:
    return {"header_filter": {"header": header}}
