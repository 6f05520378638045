"""The only two crossings between our errors and gRPC's: `to_status` on the way out, `from_rpc_error` on the way in."""

from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from services.kit import errors

DOMAIN = "myriad"
_DETAILS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: name for name, code in grpc.StatusCode.__members__.items()}


@dataclass(frozen=True, slots=True)
class WireStatus:
    """A status as gRPC sends it: code, message, trailing metadata with the details."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, bytes], ...]


def to_proto(error: errors.ServiceError) -> status_pb2.Status:
    """The error as `google.rpc.Status`: ErrorInfo, BadRequest when fields are wrong, RetryInfo when waiting helps."""
    code = grpc.StatusCode[error.code.value]
    status = status_pb2.Status(code=code.value[0], message=error.message)
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    ]
    if error.fields:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
            for field, text in error.fields.items()
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(retry)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def to_status(error: errors.ServiceError) -> WireStatus:
    """The error as gRPC sends it."""
    trailers = ((_DETAILS_KEY, to_proto(error).SerializeToString()),)
    return WireStatus(grpc.StatusCode[error.code.value], error.message, trailers)


def from_proto(status: status_pb2.Status) -> errors.ServiceError:
    """The same error that `to_proto` was given; of a stranger's, the class of its code."""
    reason, metadata, fields, retry_after = "", {}, {}, None
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            packed.Unpack(info)
            if info.domain == DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
        elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            packed.Unpack(bad)
            fields = {violation.field: violation.description for violation in bad.field_violations}
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            packed.Unpack(retry)
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    cls = errors.by_reason().get(reason or _CODES.get(status.code, ""), errors.Internal)
    return cls(status.message, fields=fields, retry_after=retry_after, metadata=metadata)


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str) -> errors.ServiceError:
    """The error another service of ours raised.

    Args:
        error: What the call raised.
        peer: Name of the service that was called, for the message: what a channel says of itself names hosts.
    """
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return from_proto(status_pb2.Status.FromString(value))
    code = error.code()
    # We did not cancel it: gRPC broke it off, for a thousand calls are in line there (docs/adr/0011), or the peer ends.
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return errors.ServiceUnavailable(f"{peer} does not answer", retry_after=1.0)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(f"{peer} did not answer in time")
    cls = errors.by_reason().get(code.name, errors.Internal)
    return cls(f"{peer} failed")
