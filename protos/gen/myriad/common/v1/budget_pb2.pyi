import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BudgetScope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUDGET_SCOPE_UNSPECIFIED: _ClassVar[BudgetScope]
    BUDGET_SCOPE_SESSION: _ClassVar[BudgetScope]
    BUDGET_SCOPE_USER: _ClassVar[BudgetScope]
    BUDGET_SCOPE_TENANT: _ClassVar[BudgetScope]
BUDGET_SCOPE_UNSPECIFIED: BudgetScope
BUDGET_SCOPE_SESSION: BudgetScope
BUDGET_SCOPE_USER: BudgetScope
BUDGET_SCOPE_TENANT: BudgetScope

class Amounts(_message.Message):
    __slots__ = ("tokens", "cost_micros", "tool_calls", "milliseconds")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_MICROS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    cost_micros: int
    tool_calls: int
    milliseconds: int
    def __init__(self, tokens: _Optional[int] = ..., cost_micros: _Optional[int] = ..., tool_calls: _Optional[int] = ..., milliseconds: _Optional[int] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("limit", "window")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    limit: Amounts
    window: _duration_pb2.Duration
    def __init__(self, limit: _Optional[_Union[Amounts, _Mapping]] = ..., window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class BudgetState(_message.Message):
    __slots__ = ("budget", "spent", "reserved", "remaining", "renew_time")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    RENEW_TIME_FIELD_NUMBER: _ClassVar[int]
    budget: Budget
    spent: Amounts
    reserved: Amounts
    remaining: Amounts
    renew_time: _timestamp_pb2.Timestamp
    def __init__(self, budget: _Optional[_Union[Budget, _Mapping]] = ..., spent: _Optional[_Union[Amounts, _Mapping]] = ..., reserved: _Optional[_Union[Amounts, _Mapping]] = ..., remaining: _Optional[_Union[Amounts, _Mapping]] = ..., renew_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
