import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from services.kit import errors
from services.kit.status import from_proto, from_rpc_error, to_proto, to_status


@pytest.mark.parametrize("cls", sorted(set(errors.by_reason().values()), key=lambda cls: cls.__name__))
def test_every_error_is_itself_again_after_the_wire(cls):
    error = cls("what happened", fields={"a.b": "bad"}, retry_after=1.25, metadata={"k": "v"})
    back = from_proto(to_proto(error))
    assert type(back) is cls
    assert (back.message, back.fields, back.retry_after, back.metadata) == (
        "what happened",
        {"a.b": "bad"},
        1.25,
        {"k": "v"},
    )


def test_every_error_class_has_a_reason_of_its_own_and_a_code_of_grpc():
    classes = list(errors.by_reason().values())
    assert len({cls.reason for cls in classes}) == len(classes) > 30
    for cls in classes:
        assert grpc.StatusCode[cls.code.value]


def test_the_tree_in_the_docstring_names_every_class():
    listed = set(errors.__doc__.replace("·", " ").replace("├── ", " ").replace("│", " ").replace("└── ", " ").split())
    assert {cls.__name__ for cls in errors.by_reason().values()} <= listed


def rpc_error(code, details=None):
    trailers = grpc.aio.Metadata(*(details or ()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details="ipv4:10.0.0.1:7104: refused")


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.ServiceUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, errors.ServiceUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhausted),
        (grpc.StatusCode.DATA_LOSS, errors.Internal),
    ],
)
def test_a_strangers_error_becomes_the_class_of_its_code_and_names_no_host(code, cls):
    error = from_rpc_error(rpc_error(code), "memory")
    assert type(error) is cls
    assert "10.0.0.1" not in error.message
    assert "memory" in error.message


def test_our_error_crosses_with_its_details():
    status = to_status(errors.SessionBusy("busy", retry_after=2.0))
    error = from_rpc_error(rpc_error(status.code, status.trailers), "memory")
    assert type(error) is errors.SessionBusy
    assert error.retry_after == 2.0


def test_another_domains_reason_is_not_ours():
    status = status_pb2.Status(code=5, message="gone")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="SESSION_NOT_FOUND", domain="elsewhere"))
    assert type(from_proto(status)) is errors.NotFound
