"""What clients ask of runs, from the messages of the contract."""

import json
import time
from types import MappingProxyType

from myriad.common.v1 import scheduling_pb2
from myriad.orchestrator.v1 import run_pb2
from services.kit.errors import InvalidArgument
from services.orchestrator.domain.run import Answer, Concurrency, Request

_CONCURRENCY = MappingProxyType(
    {
        scheduling_pb2.CONCURRENCY_UNSPECIFIED: Concurrency.ENQUEUE,
        scheduling_pb2.CONCURRENCY_REJECT: Concurrency.REJECT,
        scheduling_pb2.CONCURRENCY_ENQUEUE: Concurrency.ENQUEUE,
        scheduling_pb2.CONCURRENCY_INTERRUPT: Concurrency.INTERRUPT,
        scheduling_pb2.CONCURRENCY_ROLLBACK: Concurrency.ROLLBACK,
    }
)
_CLASSES = MappingProxyType(
    {
        scheduling_pb2.QUEUE_CLASS_UNSPECIFIED: "SIMPLE",
        scheduling_pb2.QUEUE_CLASS_SIMPLE: "SIMPLE",
        scheduling_pb2.QUEUE_CLASS_COMPLEX: "COMPLEX",
        scheduling_pb2.QUEUE_CLASS_GPU: "GPU",
    }
)
_PRIORITY = 5
_LATEST_S = 30 * 86_400


def turn_request(message: run_pb2.RunTurnRequest) -> Request:
    """A run that begins here."""
    return Request(message.session_id, message.input, message.request_id, _CONCURRENCY[message.concurrency])


def run_request(message: run_pb2.CreateRunRequest) -> Request:
    """A run for the workers.

    Raises:
        InvalidArgument: it is to begin more than 30 days from now.
    """
    due_ms = message.start_after.ToMilliseconds() if message.HasField("start_after") else 0
    if due_ms < 0 or due_ms > (time.time() + _LATEST_S) * 1000:
        raise _wrong("start_after", "must be at most 30 days from now")
    return Request(
        message.session_id,
        message.input,
        message.request_id,
        _CONCURRENCY[message.concurrency],
        _CLASSES[message.queue_class],
        message.priority if message.HasField("priority") else _PRIORITY,
        due_ms,
        message.callback_url,
    )


def answer_of(message: run_pb2.RespondToRunRequest) -> Answer:
    """What somebody answers a run that waits.

    Raises:
        InvalidArgument: the result of a tool is not JSON.
    """
    match message.WhichOneof("response"):
        case "approve":
            return Answer(approved=True)
        case "deny":
            return Answer(reason=message.deny.reason)
    result = message.tool_result
    try:
        json.loads(result.result_json)
    except (ValueError, RecursionError):
        raise _wrong("tool_result.result_json", "must be JSON") from None
    return Answer(result_json=result.result_json, is_error=result.is_error)


def _wrong(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {what}", fields={field: what})
