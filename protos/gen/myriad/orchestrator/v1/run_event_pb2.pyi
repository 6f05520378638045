import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from myriad.common.v1 import agent_pb2 as _agent_pb2
from myriad.common.v1 import common_pb2 as _common_pb2
from myriad.common.v1 import scheduling_pb2 as _scheduling_pb2
from myriad.nlu.v1 import nlu_pb2 as _nlu_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ToolOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOOL_OUTCOME_UNSPECIFIED: _ClassVar[ToolOutcome]
    TOOL_OUTCOME_OK: _ClassVar[ToolOutcome]
    TOOL_OUTCOME_ERROR: _ClassVar[ToolOutcome]
    TOOL_OUTCOME_REFUSED: _ClassVar[ToolOutcome]

class ApprovalReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    APPROVAL_REASON_UNSPECIFIED: _ClassVar[ApprovalReason]
    APPROVAL_REASON_SIDE_EFFECT: _ClassVar[ApprovalReason]
    APPROVAL_REASON_OUTCOME_UNKNOWN: _ClassVar[ApprovalReason]
    APPROVAL_REASON_CLIENT_TOOL: _ClassVar[ApprovalReason]
TOOL_OUTCOME_UNSPECIFIED: ToolOutcome
TOOL_OUTCOME_OK: ToolOutcome
TOOL_OUTCOME_ERROR: ToolOutcome
TOOL_OUTCOME_REFUSED: ToolOutcome
APPROVAL_REASON_UNSPECIFIED: ApprovalReason
APPROVAL_REASON_SIDE_EFFECT: ApprovalReason
APPROVAL_REASON_OUTCOME_UNKNOWN: ApprovalReason
APPROVAL_REASON_CLIENT_TOOL: ApprovalReason

class RunEvent(_message.Message):
    __slots__ = ("run_id", "sequence", "time", "started", "queued", "understood", "cache_hit", "retrieved", "routed", "text_delta", "tool_started", "tool_finished", "approval_required", "restarted", "degraded", "usage", "completed", "failed", "cancelled", "heartbeat")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    UNDERSTOOD_FIELD_NUMBER: _ClassVar[int]
    CACHE_HIT_FIELD_NUMBER: _ClassVar[int]
    RETRIEVED_FIELD_NUMBER: _ClassVar[int]
    ROUTED_FIELD_NUMBER: _ClassVar[int]
    TEXT_DELTA_FIELD_NUMBER: _ClassVar[int]
    TOOL_STARTED_FIELD_NUMBER: _ClassVar[int]
    TOOL_FINISHED_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    RESTARTED_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    sequence: int
    time: _timestamp_pb2.Timestamp
    started: RunStarted
    queued: RunQueued
    understood: RunUnderstood
    cache_hit: RunCacheHit
    retrieved: RunRetrieved
    routed: RunRouted
    text_delta: RunTextDelta
    tool_started: RunToolStarted
    tool_finished: RunToolFinished
    approval_required: RunApprovalRequired
    restarted: RunRestarted
    degraded: RunDegraded
    usage: _common_pb2.Usage
    completed: RunCompleted
    failed: RunFailed
    cancelled: RunCancelled
    heartbeat: RunHeartbeat
    def __init__(self, run_id: _Optional[str] = ..., sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started: _Optional[_Union[RunStarted, _Mapping]] = ..., queued: _Optional[_Union[RunQueued, _Mapping]] = ..., understood: _Optional[_Union[RunUnderstood, _Mapping]] = ..., cache_hit: _Optional[_Union[RunCacheHit, _Mapping]] = ..., retrieved: _Optional[_Union[RunRetrieved, _Mapping]] = ..., routed: _Optional[_Union[RunRouted, _Mapping]] = ..., text_delta: _Optional[_Union[RunTextDelta, _Mapping]] = ..., tool_started: _Optional[_Union[RunToolStarted, _Mapping]] = ..., tool_finished: _Optional[_Union[RunToolFinished, _Mapping]] = ..., approval_required: _Optional[_Union[RunApprovalRequired, _Mapping]] = ..., restarted: _Optional[_Union[RunRestarted, _Mapping]] = ..., degraded: _Optional[_Union[RunDegraded, _Mapping]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., completed: _Optional[_Union[RunCompleted, _Mapping]] = ..., failed: _Optional[_Union[RunFailed, _Mapping]] = ..., cancelled: _Optional[_Union[RunCancelled, _Mapping]] = ..., heartbeat: _Optional[_Union[RunHeartbeat, _Mapping]] = ...) -> None: ...

class RunStarted(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: _agent_pb2.AgentRef
    def __init__(self, agent: _Optional[_Union[_agent_pb2.AgentRef, _Mapping]] = ...) -> None: ...

class RunQueued(_message.Message):
    __slots__ = ("position", "queue_class")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_CLASS_FIELD_NUMBER: _ClassVar[int]
    position: int
    queue_class: _scheduling_pb2.QueueClass
    def __init__(self, position: _Optional[int] = ..., queue_class: _Optional[_Union[_scheduling_pb2.QueueClass, str]] = ...) -> None: ...

class RunUnderstood(_message.Message):
    __slots__ = ("intents", "out_of_scope", "entities", "complexity", "language")
    INTENTS_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_SCOPE_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    COMPLEXITY_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    intents: _containers.RepeatedCompositeFieldContainer[_nlu_pb2.RankedIntent]
    out_of_scope: bool
    entities: _containers.RepeatedCompositeFieldContainer[_nlu_pb2.Entity]
    complexity: _nlu_pb2.Complexity
    language: str
    def __init__(self, intents: _Optional[_Iterable[_Union[_nlu_pb2.RankedIntent, _Mapping]]] = ..., out_of_scope: _Optional[bool] = ..., entities: _Optional[_Iterable[_Union[_nlu_pb2.Entity, _Mapping]]] = ..., complexity: _Optional[_Union[_nlu_pb2.Complexity, _Mapping]] = ..., language: _Optional[str] = ...) -> None: ...

class RunCacheHit(_message.Message):
    __slots__ = ("level",)
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    level: str
    def __init__(self, level: _Optional[str] = ...) -> None: ...

class RunRetrieved(_message.Message):
    __slots__ = ("citations",)
    CITATIONS_FIELD_NUMBER: _ClassVar[int]
    citations: _containers.RepeatedCompositeFieldContainer[_common_pb2.Citation]
    def __init__(self, citations: _Optional[_Iterable[_Union[_common_pb2.Citation, _Mapping]]] = ...) -> None: ...

class RunRouted(_message.Message):
    __slots__ = ("model", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RunTextDelta(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class RunToolStarted(_message.Message):
    __slots__ = ("call", "background")
    CALL_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    call: _common_pb2.ToolCall
    background: bool
    def __init__(self, call: _Optional[_Union[_common_pb2.ToolCall, _Mapping]] = ..., background: _Optional[bool] = ...) -> None: ...

class RunToolFinished(_message.Message):
    __slots__ = ("tool_call_id", "tool", "outcome", "result_json", "reason")
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    tool_call_id: str
    tool: str
    outcome: ToolOutcome
    result_json: str
    reason: str
    def __init__(self, tool_call_id: _Optional[str] = ..., tool: _Optional[str] = ..., outcome: _Optional[_Union[ToolOutcome, str]] = ..., result_json: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RunApprovalRequired(_message.Message):
    __slots__ = ("call", "approval_token", "reason", "expire_time")
    CALL_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    call: _common_pb2.ToolCall
    approval_token: str
    reason: ApprovalReason
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, call: _Optional[_Union[_common_pb2.ToolCall, _Mapping]] = ..., approval_token: _Optional[str] = ..., reason: _Optional[_Union[ApprovalReason, str]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RunRestarted(_message.Message):
    __slots__ = ("discard_from_sequence",)
    DISCARD_FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    discard_from_sequence: int
    def __init__(self, discard_from_sequence: _Optional[int] = ...) -> None: ...

class RunDegraded(_message.Message):
    __slots__ = ("component", "reason")
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    component: str
    reason: str
    def __init__(self, component: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RunCompleted(_message.Message):
    __slots__ = ("answer", "usage")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    answer: str
    usage: _common_pb2.Usage
    def __init__(self, answer: _Optional[str] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ...) -> None: ...

class RunFailed(_message.Message):
    __slots__ = ("error", "partial_answer", "usage")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_ANSWER_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    error: _status_pb2.Status
    partial_answer: str
    usage: _common_pb2.Usage
    def __init__(self, error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., partial_answer: _Optional[str] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ...) -> None: ...

class RunCancelled(_message.Message):
    __slots__ = ("partial_answer", "usage", "rolled_back", "tool_effects")
    PARTIAL_ANSWER_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_FIELD_NUMBER: _ClassVar[int]
    TOOL_EFFECTS_FIELD_NUMBER: _ClassVar[int]
    partial_answer: str
    usage: _common_pb2.Usage
    rolled_back: bool
    tool_effects: _containers.RepeatedCompositeFieldContainer[_common_pb2.ToolCall]
    def __init__(self, partial_answer: _Optional[str] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., rolled_back: _Optional[bool] = ..., tool_effects: _Optional[_Iterable[_Union[_common_pb2.ToolCall, _Mapping]]] = ...) -> None: ...

class RunHeartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
