from buf.validate import validate_pb2 as _validate_pb2
from myriad.common.v1 import agent_pb2 as _agent_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AnalyzeRequest(_message.Message):
    __slots__ = ("agent", "text")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    agent: _agent_pb2.AgentRef
    text: str
    def __init__(self, agent: _Optional[_Union[_agent_pb2.AgentRef, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class AnalyzeResponse(_message.Message):
    __slots__ = ("intents", "out_of_scope", "entities", "complexity", "language", "embedding", "model_version")
    INTENTS_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_SCOPE_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    COMPLEXITY_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    intents: _containers.RepeatedCompositeFieldContainer[RankedIntent]
    out_of_scope: bool
    entities: _containers.RepeatedCompositeFieldContainer[Entity]
    complexity: Complexity
    language: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    model_version: str
    def __init__(self, intents: _Optional[_Iterable[_Union[RankedIntent, _Mapping]]] = ..., out_of_scope: _Optional[bool] = ..., entities: _Optional[_Iterable[_Union[Entity, _Mapping]]] = ..., complexity: _Optional[_Union[Complexity, _Mapping]] = ..., language: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ..., model_version: _Optional[str] = ...) -> None: ...

class RankedIntent(_message.Message):
    __slots__ = ("name", "confidence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    confidence: float
    def __init__(self, name: _Optional[str] = ..., confidence: _Optional[float] = ...) -> None: ...

class Entity(_message.Message):
    __slots__ = ("type", "text", "start", "end", "value")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    type: str
    text: str
    start: int
    end: int
    value: str
    def __init__(self, type: _Optional[str] = ..., text: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...

class Complexity(_message.Message):
    __slots__ = ("score", "tools", "multi_step", "reasoning")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    MULTI_STEP_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    score: float
    tools: float
    multi_step: float
    reasoning: float
    def __init__(self, score: _Optional[float] = ..., tools: _Optional[float] = ..., multi_step: _Optional[float] = ..., reasoning: _Optional[float] = ...) -> None: ...
