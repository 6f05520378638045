import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from myriad.common.v1 import budget_pb2 as _budget_pb2
from myriad.common.v1 import common_pb2 as _common_pb2
from myriad.common.v1 import scheduling_pb2 as _scheduling_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BeginTurnRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "request_digest", "lease", "max_messages", "max_tokens", "record", "concurrency", "defer", "start_after", "wanted")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    DEFER_FIELD_NUMBER: _ClassVar[int]
    START_AFTER_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: str
    request_digest: bytes
    lease: _duration_pb2.Duration
    max_messages: int
    max_tokens: int
    record: bytes
    concurrency: _scheduling_pb2.Concurrency
    defer: bool
    start_after: _timestamp_pb2.Timestamp
    wanted: _budget_pb2.Amounts
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[str] = ..., request_digest: _Optional[bytes] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_messages: _Optional[int] = ..., max_tokens: _Optional[int] = ..., record: _Optional[bytes] = ..., concurrency: _Optional[_Union[_scheduling_pb2.Concurrency, str]] = ..., defer: _Optional[bool] = ..., start_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., wanted: _Optional[_Union[_budget_pb2.Amounts, _Mapping]] = ...) -> None: ...

class BeginTurnResponse(_message.Message):
    __slots__ = ("run_id", "fencing_token", "attached", "agent", "history", "queued", "position", "granted", "renew_time", "remaining")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCING_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    RENEW_TIME_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fencing_token: int
    attached: bool
    agent: str
    history: _containers.RepeatedCompositeFieldContainer[_common_pb2.Message]
    queued: bool
    position: int
    granted: _budget_pb2.Amounts
    renew_time: _timestamp_pb2.Timestamp
    remaining: _budget_pb2.Amounts
    def __init__(self, run_id: _Optional[str] = ..., fencing_token: _Optional[int] = ..., attached: _Optional[bool] = ..., agent: _Optional[str] = ..., history: _Optional[_Iterable[_Union[_common_pb2.Message, _Mapping]]] = ..., queued: _Optional[bool] = ..., position: _Optional[int] = ..., granted: _Optional[_Union[_budget_pb2.Amounts, _Mapping]] = ..., renew_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., remaining: _Optional[_Union[_budget_pb2.Amounts, _Mapping]] = ...) -> None: ...

class ResumeTurnRequest(_message.Message):
    __slots__ = ("session_id", "lease", "max_messages", "max_tokens", "run")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    lease: _duration_pb2.Duration
    max_messages: int
    max_tokens: int
    run: int
    def __init__(self, session_id: _Optional[str] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_messages: _Optional[int] = ..., max_tokens: _Optional[int] = ..., run: _Optional[int] = ...) -> None: ...

class ResumeTurnResponse(_message.Message):
    __slots__ = ("run_id", "fencing_token", "agent", "history", "record", "checkpoint", "attempts", "response", "granted", "renew_time", "remaining")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCING_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    RENEW_TIME_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fencing_token: int
    agent: str
    history: _containers.RepeatedCompositeFieldContainer[_common_pb2.Message]
    record: bytes
    checkpoint: bytes
    attempts: int
    response: bytes
    granted: _budget_pb2.Amounts
    renew_time: _timestamp_pb2.Timestamp
    remaining: _budget_pb2.Amounts
    def __init__(self, run_id: _Optional[str] = ..., fencing_token: _Optional[int] = ..., agent: _Optional[str] = ..., history: _Optional[_Iterable[_Union[_common_pb2.Message, _Mapping]]] = ..., record: _Optional[bytes] = ..., checkpoint: _Optional[bytes] = ..., attempts: _Optional[int] = ..., response: _Optional[bytes] = ..., granted: _Optional[_Union[_budget_pb2.Amounts, _Mapping]] = ..., renew_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., remaining: _Optional[_Union[_budget_pb2.Amounts, _Mapping]] = ...) -> None: ...

class ExtendTurnRequest(_message.Message):
    __slots__ = ("run_id", "fencing_token", "wanted")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCING_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fencing_token: int
    wanted: _budget_pb2.Amounts
    def __init__(self, run_id: _Optional[str] = ..., fencing_token: _Optional[int] = ..., wanted: _Optional[_Union[_budget_pb2.Amounts, _Mapping]] = ...) -> None: ...

class ExtendTurnResponse(_message.Message):
    __slots__ = ("granted", "renew_time", "remaining")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    RENEW_TIME_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    granted: _budget_pb2.Amounts
    renew_time: _timestamp_pb2.Timestamp
    remaining: _budget_pb2.Amounts
    def __init__(self, granted: _Optional[_Union[_budget_pb2.Amounts, _Mapping]] = ..., renew_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., remaining: _Optional[_Union[_budget_pb2.Amounts, _Mapping]] = ...) -> None: ...

class CommitTurnRequest(_message.Message):
    __slots__ = ("run_id", "fencing_token", "messages", "last_events", "first_sequence", "spent")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCING_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fencing_token: int
    messages: _containers.RepeatedCompositeFieldContainer[_common_pb2.Message]
    last_events: _containers.RepeatedScalarFieldContainer[bytes]
    first_sequence: int
    spent: _budget_pb2.Amounts
    def __init__(self, run_id: _Optional[str] = ..., fencing_token: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[_common_pb2.Message, _Mapping]]] = ..., last_events: _Optional[_Iterable[bytes]] = ..., first_sequence: _Optional[int] = ..., spent: _Optional[_Union[_budget_pb2.Amounts, _Mapping]] = ...) -> None: ...

class CommitTurnResponse(_message.Message):
    __slots__ = ("next",)
    NEXT_FIELD_NUMBER: _ClassVar[int]
    next: NextRun
    def __init__(self, next: _Optional[_Union[NextRun, _Mapping]] = ...) -> None: ...

class NextRun(_message.Message):
    __slots__ = ("run_id", "record")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    record: bytes
    def __init__(self, run_id: _Optional[str] = ..., record: _Optional[bytes] = ...) -> None: ...

class AbandonTurnRequest(_message.Message):
    __slots__ = ("run_id", "fencing_token", "last_events", "first_sequence", "spent")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCING_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fencing_token: int
    last_events: _containers.RepeatedScalarFieldContainer[bytes]
    first_sequence: int
    spent: _budget_pb2.Amounts
    def __init__(self, run_id: _Optional[str] = ..., fencing_token: _Optional[int] = ..., last_events: _Optional[_Iterable[bytes]] = ..., first_sequence: _Optional[int] = ..., spent: _Optional[_Union[_budget_pb2.Amounts, _Mapping]] = ...) -> None: ...

class AbandonTurnResponse(_message.Message):
    __slots__ = ("next",)
    NEXT_FIELD_NUMBER: _ClassVar[int]
    next: NextRun
    def __init__(self, next: _Optional[_Union[NextRun, _Mapping]] = ...) -> None: ...
