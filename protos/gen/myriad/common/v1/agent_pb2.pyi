import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from myriad.common.v1 import tool_pb2 as _tool_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ToolChoice(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOOL_CHOICE_UNSPECIFIED: _ClassVar[ToolChoice]
    TOOL_CHOICE_INTENT: _ClassVar[ToolChoice]
    TOOL_CHOICE_MODEL: _ClassVar[ToolChoice]
TOOL_CHOICE_UNSPECIFIED: ToolChoice
TOOL_CHOICE_INTENT: ToolChoice
TOOL_CHOICE_MODEL: ToolChoice

class AgentRef(_message.Message):
    __slots__ = ("name", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: int
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class Agent(_message.Message):
    __slots__ = ("name", "revision", "create_time", "display_name", "persona", "intents", "entities", "tools", "knowledge", "model", "limits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    PERSONA_FIELD_NUMBER: _ClassVar[int]
    INTENTS_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    KNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: int
    create_time: _timestamp_pb2.Timestamp
    display_name: str
    persona: str
    intents: _containers.RepeatedCompositeFieldContainer[Intent]
    entities: _containers.RepeatedCompositeFieldContainer[EntityType]
    tools: _containers.RepeatedCompositeFieldContainer[_tool_pb2.Tool]
    knowledge: Knowledge
    model: ModelPolicy
    limits: RunLimits
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., display_name: _Optional[str] = ..., persona: _Optional[str] = ..., intents: _Optional[_Iterable[_Union[Intent, _Mapping]]] = ..., entities: _Optional[_Iterable[_Union[EntityType, _Mapping]]] = ..., tools: _Optional[_Iterable[_Union[_tool_pb2.Tool, _Mapping]]] = ..., knowledge: _Optional[_Union[Knowledge, _Mapping]] = ..., model: _Optional[_Union[ModelPolicy, _Mapping]] = ..., limits: _Optional[_Union[RunLimits, _Mapping]] = ...) -> None: ...

class Intent(_message.Message):
    __slots__ = ("name", "examples", "tool", "skip_knowledge")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    SKIP_KNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    examples: _containers.RepeatedScalarFieldContainer[str]
    tool: ToolBinding
    skip_knowledge: bool
    def __init__(self, name: _Optional[str] = ..., examples: _Optional[_Iterable[str]] = ..., tool: _Optional[_Union[ToolBinding, _Mapping]] = ..., skip_knowledge: _Optional[bool] = ...) -> None: ...

class ToolBinding(_message.Message):
    __slots__ = ("name", "arguments", "ask")
    class ArgumentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    name: str
    arguments: _containers.ScalarMap[str, str]
    ask: str
    def __init__(self, name: _Optional[str] = ..., arguments: _Optional[_Mapping[str, str]] = ..., ask: _Optional[str] = ...) -> None: ...

class EntityType(_message.Message):
    __slots__ = ("name", "values", "patterns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedCompositeFieldContainer[EntityValue]
    patterns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[_Union[EntityValue, _Mapping]]] = ..., patterns: _Optional[_Iterable[str]] = ...) -> None: ...

class EntityValue(_message.Message):
    __slots__ = ("value", "synonyms")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SYNONYMS_FIELD_NUMBER: _ClassVar[int]
    value: str
    synonyms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, value: _Optional[str] = ..., synonyms: _Optional[_Iterable[str]] = ...) -> None: ...

class Knowledge(_message.Message):
    __slots__ = ("collections", "top_k", "min_score")
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    min_score: float
    def __init__(self, collections: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., min_score: _Optional[float] = ...) -> None: ...

class ModelPolicy(_message.Message):
    __slots__ = ("model", "max_tokens", "temperature", "tool_choice")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOOL_CHOICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    max_tokens: int
    temperature: float
    tool_choice: ToolChoice
    def __init__(self, model: _Optional[str] = ..., max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., tool_choice: _Optional[_Union[ToolChoice, str]] = ...) -> None: ...

class RunLimits(_message.Message):
    __slots__ = ("max_steps", "max_tokens", "timeout", "max_cost_micros", "max_tool_calls")
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_MICROS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    max_steps: int
    max_tokens: int
    timeout: _duration_pb2.Duration
    max_cost_micros: int
    max_tool_calls: int
    def __init__(self, max_steps: _Optional[int] = ..., max_tokens: _Optional[int] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_cost_micros: _Optional[int] = ..., max_tool_calls: _Optional[int] = ...) -> None: ...
