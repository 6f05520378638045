"""Errors that leave a service: each is a class with a code and a reason, and stays itself across the network.

    ServiceError
    ├── InvalidArgument · InvalidToolArguments
    ├── Unauthenticated
    ├── PermissionDenied · ApprovalInvalid · RoleRequired · ToolNotAllowed
    ├── NotFound · AgentNotFound · CollectionNotFound · DeadLetterNotFound · DocumentNotFound
    │       · ExecutionNotFound · RunNotFound · SessionNotFound · ToolNotFound
    ├── AlreadyExists · CollectionExists · RequestIdReused
    ├── Aborted · ExecutionInProgress · LeaseLost · RequestInProgress · SessionBusy
    ├── FailedPrecondition · ApprovalRequired · RunNotWaiting · ToolRunsAtClient
    ├── ResourceExhausted · BudgetExhausted · LineFull · ModelOverloaded · Overloaded · QueueFull · RunLimitReached
    │       · ToolResponseTooLarge
    ├── DeadlineExceeded · ToolTimeout
    ├── Cancelled
    ├── Unavailable · ModelUnavailable · ServiceUnavailable · StoreUnavailable · ToolUnavailable
    │       · VectorIndexUnavailable
    │       └── StoreFull (RESOURCE_EXHAUSTED)
    ├── Unimplemented
    └── Internal · CheckpointBroken · ModelFailed

This module speaks no gRPC, so that the decisions of a service can raise these; `status.py` puts them on the wire.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar


class Code(StrEnum):
    """What kind of failure it is. The names are gRPC's."""

    ABORTED = "ABORTED"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    CANCELLED = "CANCELLED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    INTERNAL = "INTERNAL"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    UNAVAILABLE = "UNAVAILABLE"
    UNIMPLEMENTED = "UNIMPLEMENTED"


class ServiceError(Exception):
    """A failure the caller may know of.

    Args:
        message: What happened, for a person. It leaves the service: no class name, path, host or secret.
        fields: Field path to what is wrong with it; for InvalidArgument.
        retry_after: Seconds after which trying again may help. None: waiting does not help.
        metadata: Facts about the failure for a program.
    """

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        fields: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Says what happened, and what a program should know of it."""
        super().__init__(message)
        self.message = message
        self.fields = dict(fields or {})
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})


class InvalidArgument(ServiceError):
    """The request is wrong, whatever the state of the system."""

    code, reason = Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"


class InvalidToolArguments(InvalidArgument):
    """The arguments do not fit the tool's schema."""

    reason = "INVALID_TOOL_ARGUMENTS"


class Unauthenticated(ServiceError):
    """The caller did not prove who it is."""

    code, reason = Code.UNAUTHENTICATED, "UNAUTHENTICATED"


class PermissionDenied(ServiceError):
    """The caller is known, and may not."""

    code, reason = Code.PERMISSION_DENIED, "PERMISSION_DENIED"


class RoleRequired(PermissionDenied):
    """The caller has none of the roles the method asks for."""

    reason = "ROLE_REQUIRED"


class ToolNotAllowed(PermissionDenied):
    """The user has none of the roles the tool asks for."""

    reason = "TOOL_NOT_ALLOWED"


class ApprovalInvalid(PermissionDenied):
    """The approval is another's, was used, or has expired."""

    reason = "APPROVAL_INVALID"


class NotFound(ServiceError):
    """It is not there, or not the caller's."""

    code, reason = Code.NOT_FOUND, "NOT_FOUND"


class AgentNotFound(NotFound):
    """No such agent, or no such revision of it."""

    reason = "AGENT_NOT_FOUND"


class CollectionNotFound(NotFound):
    """No such collection."""

    reason = "COLLECTION_NOT_FOUND"


class DeadLetterNotFound(NotFound):
    """No such dead letter."""

    reason = "DEAD_LETTER_NOT_FOUND"


class DocumentNotFound(NotFound):
    """No such document."""

    reason = "DOCUMENT_NOT_FOUND"


class ExecutionNotFound(NotFound):
    """No such execution of a tool."""

    reason = "EXECUTION_NOT_FOUND"


class RunNotFound(NotFound):
    """No such run."""

    reason = "RUN_NOT_FOUND"


class SessionNotFound(NotFound):
    """No such session."""

    reason = "SESSION_NOT_FOUND"


class ToolNotFound(NotFound):
    """The agent has no such tool."""

    reason = "TOOL_NOT_FOUND"


class AlreadyExists(ServiceError):
    """It is there already."""

    code, reason = Code.ALREADY_EXISTS, "ALREADY_EXISTS"


class CollectionExists(AlreadyExists):
    """The collection is there, and differs."""

    reason = "COLLECTION_EXISTS"


class RequestIdReused(AlreadyExists):
    """The request id was used before with another body."""

    reason = "REQUEST_ID_REUSED"


class Aborted(ServiceError):
    """Another call got in the way."""

    code, reason = Code.ABORTED, "ABORTED"


class ExecutionInProgress(Aborted):
    """The same tool call is running."""

    reason = "EXECUTION_IN_PROGRESS"


class LeaseLost(Aborted):
    """A later turn holds the session; what this one writes is refused."""

    reason = "LEASE_LOST"


class RequestInProgress(Aborted):
    """The same request is under way."""

    reason = "REQUEST_IN_PROGRESS"


class SessionBusy(Aborted):
    """Another run holds the session."""

    reason = "SESSION_BUSY"


class FailedPrecondition(ServiceError):
    """The state of the system does not allow it."""

    code, reason = Code.FAILED_PRECONDITION, "FAILED_PRECONDITION"


class ApprovalRequired(FailedPrecondition):
    """A person must approve it first."""

    reason = "APPROVAL_REQUIRED"


class RunNotWaiting(FailedPrecondition):
    """The run waits for no answer."""

    reason = "RUN_NOT_WAITING"


class ToolRunsAtClient(FailedPrecondition):
    """The tool is the client's to run."""

    reason = "TOOL_RUNS_AT_CLIENT"


class ResourceExhausted(ServiceError):
    """A limit is reached."""

    code, reason = Code.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"


class BudgetExhausted(ResourceExhausted):
    """Nothing, or not enough, is left of a budget."""

    reason = "BUDGET_EXHAUSTED"


class LineFull(ResourceExhausted):
    """As many runs wait in the session as may."""

    reason = "LINE_FULL"


class ModelOverloaded(ResourceExhausted):
    """The model's queue is full, or the request waited in it too long."""

    reason = "MODEL_OVERLOADED"


class Overloaded(ResourceExhausted):
    """The service has as many calls under way as it may."""

    reason = "OVERLOADED"


class QueueFull(ResourceExhausted):
    """As many items of the tenant wait in the queue as may."""

    reason = "QUEUE_FULL"


class RunLimitReached(ResourceExhausted):
    """The run used all it was allowed to."""

    reason = "RUN_LIMIT_REACHED"


class ToolResponseTooLarge(ResourceExhausted):
    """The tool's answer is larger than allowed."""

    reason = "TOOL_RESPONSE_TOO_LARGE"


class DeadlineExceeded(ServiceError):
    """It took too long."""

    code, reason = Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"


class ToolTimeout(DeadlineExceeded):
    """The tool took longer than its timeout."""

    reason = "TOOL_TIMEOUT"


class Cancelled(ServiceError):
    """The caller gave up."""

    code, reason = Code.CANCELLED, "CANCELLED"


class Unavailable(ServiceError):
    """It cannot be done now; later it may."""

    code, reason = Code.UNAVAILABLE, "UNAVAILABLE"


class ModelUnavailable(Unavailable):
    """The model tier does not answer."""

    reason = "MODEL_UNAVAILABLE"


class ServiceUnavailable(Unavailable):
    """Another service of ours does not answer."""

    reason = "SERVICE_UNAVAILABLE"


class StoreUnavailable(Unavailable):
    """The store does not answer."""

    reason = "STORE_UNAVAILABLE"


class StoreFull(StoreUnavailable):
    """The store's disk or memory is full: it can be read, and written again when there is room."""

    code, reason = Code.RESOURCE_EXHAUSTED, "STORE_FULL"


class ToolUnavailable(Unavailable):
    """The tool cannot be reached."""

    reason = "TOOL_UNAVAILABLE"


class VectorIndexUnavailable(Unavailable):
    """The vector index does not answer."""

    reason = "VECTOR_INDEX_UNAVAILABLE"


class Unimplemented(ServiceError):
    """There is no such method."""

    code, reason = Code.UNIMPLEMENTED, "UNIMPLEMENTED"


class Internal(ServiceError):
    """Something is broken here. The details are in the log, under the trace id."""


class CheckpointBroken(Internal):
    """What was kept of a run is not what was written, or of a format that is not read here."""

    reason = "CHECKPOINT_BROKEN"


class ModelFailed(Internal):
    """The model answered with an error."""

    reason = "MODEL_FAILED"


def by_reason() -> dict[str, type[ServiceError]]:
    """Reason to class, for every class of the tree that has a reason of its own."""
    found: dict[str, type[ServiceError]] = {}
    waiting = [ServiceError]
    while waiting:
        cls = waiting.pop()
        found.setdefault(cls.reason, cls)
        waiting.extend(cls.__subclasses__())
    return found | {"INTERNAL": Internal}
