from buf.validate import validate_pb2 as _validate_pb2
from myriad.common.v1 import budget_pb2 as _budget_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetBudgetRequest(_message.Message):
    __slots__ = ("scope", "session_id", "user")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    scope: _budget_pb2.BudgetScope
    session_id: str
    user: str
    def __init__(self, scope: _Optional[_Union[_budget_pb2.BudgetScope, str]] = ..., session_id: _Optional[str] = ..., user: _Optional[str] = ...) -> None: ...

class GetBudgetResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: _budget_pb2.BudgetState
    def __init__(self, state: _Optional[_Union[_budget_pb2.BudgetState, _Mapping]] = ...) -> None: ...

class SetBudgetRequest(_message.Message):
    __slots__ = ("scope", "session_id", "user", "budget", "request_id")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    scope: _budget_pb2.BudgetScope
    session_id: str
    user: str
    budget: _budget_pb2.Budget
    request_id: str
    def __init__(self, scope: _Optional[_Union[_budget_pb2.BudgetScope, str]] = ..., session_id: _Optional[str] = ..., user: _Optional[str] = ..., budget: _Optional[_Union[_budget_pb2.Budget, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetBudgetResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: _budget_pb2.BudgetState
    def __init__(self, state: _Optional[_Union[_budget_pb2.BudgetState, _Mapping]] = ...) -> None: ...
