import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SideEffect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIDE_EFFECT_UNSPECIFIED: _ClassVar[SideEffect]
    SIDE_EFFECT_READ: _ClassVar[SideEffect]
    SIDE_EFFECT_IDEMPOTENT: _ClassVar[SideEffect]
    SIDE_EFFECT_SIDE_EFFECT: _ClassVar[SideEffect]

class HttpMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HTTP_METHOD_UNSPECIFIED: _ClassVar[HttpMethod]
    HTTP_METHOD_GET: _ClassVar[HttpMethod]
    HTTP_METHOD_POST: _ClassVar[HttpMethod]
    HTTP_METHOD_PUT: _ClassVar[HttpMethod]
    HTTP_METHOD_PATCH: _ClassVar[HttpMethod]
    HTTP_METHOD_DELETE: _ClassVar[HttpMethod]
SIDE_EFFECT_UNSPECIFIED: SideEffect
SIDE_EFFECT_READ: SideEffect
SIDE_EFFECT_IDEMPOTENT: SideEffect
SIDE_EFFECT_SIDE_EFFECT: SideEffect
HTTP_METHOD_UNSPECIFIED: HttpMethod
HTTP_METHOD_GET: HttpMethod
HTTP_METHOD_POST: HttpMethod
HTTP_METHOD_PUT: HttpMethod
HTTP_METHOD_PATCH: HttpMethod
HTTP_METHOD_DELETE: HttpMethod

class Tool(_message.Message):
    __slots__ = ("name", "description", "parameters", "side_effect", "timeout", "roles", "builtin", "http", "client", "background")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SIDE_EFFECT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    BUILTIN_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    parameters: _struct_pb2.Struct
    side_effect: SideEffect
    timeout: _duration_pb2.Duration
    roles: _containers.RepeatedScalarFieldContainer[str]
    builtin: BuiltinTool
    http: HttpTool
    client: ClientTool
    background: bool
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., side_effect: _Optional[_Union[SideEffect, str]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., roles: _Optional[_Iterable[str]] = ..., builtin: _Optional[_Union[BuiltinTool, _Mapping]] = ..., http: _Optional[_Union[HttpTool, _Mapping]] = ..., client: _Optional[_Union[ClientTool, _Mapping]] = ..., background: _Optional[bool] = ...) -> None: ...

class ClientTool(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BuiltinTool(_message.Message):
    __slots__ = ("function",)
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    function: str
    def __init__(self, function: _Optional[str] = ...) -> None: ...

class HttpTool(_message.Message):
    __slots__ = ("method", "endpoint", "url", "response", "max_response_bytes", "idempotency_key")
    class ResponseEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    method: HttpMethod
    endpoint: str
    url: str
    response: _containers.ScalarMap[str, str]
    max_response_bytes: int
    idempotency_key: bool
    def __init__(self, method: _Optional[_Union[HttpMethod, str]] = ..., endpoint: _Optional[str] = ..., url: _Optional[str] = ..., response: _Optional[_Mapping[str, str]] = ..., max_response_bytes: _Optional[int] = ..., idempotency_key: _Optional[bool] = ...) -> None: ...
