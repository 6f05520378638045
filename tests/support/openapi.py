"""The public methods as an OpenAPI 3.1 document, made from the protos: what Envoy's transcoder takes and gives."""

import re
from typing import Any

from buf.validate import validate_pb2
from google.api import annotations_pb2  # type: ignore[import-untyped]
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

Json = dict[str, Any]

_ERRORS = ("400", "403", "404", "409", "413", "429", "431", "503", "504")
"""What any method may answer beside 200. A 500 is never right."""

_BY_FULL_NAME: dict[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string", "pattern": r"^type\.googleapis\.com/google\.rpc\."}},
        "required": ["@type"],
    },
}
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
}
_LONG = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


def document(service: ServiceDescriptor, error: Descriptor) -> Json:
    """The methods of a service that have an HTTP annotation; `error` is the message of each error's body."""
    made = _Document()
    paths: Json = {}
    for method in service.methods:
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")
        if verb:
            paths.setdefault(getattr(rule, verb), {})[verb] = made.operation(method, getattr(rule, verb), error)
    return {
        "openapi": "3.1.0",
        "info": {"title": service.full_name, "version": service.full_name.split(".")[-2]},
        "paths": paths,
        "components": {"schemas": made.schemas},
    }


class _Document:
    """Collects the schemas that operations refer to."""

    def __init__(self) -> None:
        self.schemas: dict[str, Json] = {}

    def operation(self, method: MethodDescriptor, path: str, error: Descriptor) -> Json:
        """One method: path parameters first; with a body the rest is the body, else the query."""
        in_path = re.findall(r"{(\w+)}", path)
        rest = [field for field in method.input_type.fields if field.name not in in_path]
        with_body = bool(method.GetOptions().Extensions[annotations_pb2.http].body)
        made: Json = {
            "operationId": method.name,
            "parameters": [self._parameter(method.input_type.fields_by_name[name], "path") for name in in_path],
            "responses": {code: self._answer(error, "application/json") for code in _ERRORS},
        }
        kind = "text/event-stream" if method.server_streaming else "application/json"
        made["responses"]["200"] = self._answer(method.output_type, kind)
        if with_body:
            properties = {field.name: self._field(field) for field in rest}
            needed = [field.name for field in rest if _is_needed(field)]
            schema = {"type": "object", "properties": properties, "required": needed}
            made["requestBody"] = {"required": bool(needed), "content": {"application/json": {"schema": schema}}}
        else:
            made["parameters"] += [self._parameter(field, "query") for field in rest]
        return made

    def _parameter(self, field: FieldDescriptor, place: str) -> Json:
        return {"name": field.name, "in": place, "required": place == "path", "schema": self._field(field)}

    def _answer(self, message: Descriptor, kind: str) -> Json:
        """A message; of a stream, one of its events, whose data are the message as text."""
        schema = self._message(message)
        if kind == "text/event-stream":
            data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
            schema = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        return {"description": message.name, "content": {kind: {"schema": schema}}}

    def _message(self, message: Descriptor) -> Json:
        """A reference to a message as it is printed: zeros are there, absent messages and members of a oneof not."""
        known = _BY_FULL_NAME.get(message.full_name)
        if known is not None:
            return known
        if message.name not in self.schemas:
            self.schemas[message.name] = made = {"type": "object", "additionalProperties": False}
            made["properties"] = {field.name: self._field(field) for field in message.fields}
            made["required"] = [field.name for field in message.fields if _is_printed(field)]
        return {"$ref": f"#/components/schemas/{message.name}"}

    def _field(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._one(field.message_type.fields_by_name["value"])}
        if field.is_repeated:
            return {"type": "array", "items": self._one(field)}
        return self._one(field)

    def _one(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None:
            return self._message(field.message_type)
        if field.enum_type is not None:
            return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
        return _scalar(field)


def _scalar(field: FieldDescriptor) -> Json:
    rules = field.GetOptions().Extensions[validate_pb2.field]
    if field.cpp_type in _INTEGERS:
        lowest, highest = _INTEGERS[field.cpp_type]
        own = rules.int32 if lowest else rules.uint32
        return {
            "type": "integer",
            "minimum": own.gte if own.HasField("gte") else lowest,
            "maximum": own.lte if own.HasField("lte") else highest,
        }
    if field.cpp_type in _LONG:
        return {"type": "string", "pattern": "^-?[0-9]+$"}
    if field.cpp_type in _FLOATS:
        return {"type": "number"}
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return {"type": "boolean"}
    made: Json = {"type": "string"}
    if rules.string.pattern:
        made["pattern"] = rules.string.pattern.replace("\\x", "\\u00")
    if rules.string.HasField("min_len"):
        made["minLength"] = rules.string.min_len
    if rules.string.HasField("max_len"):
        made["maxLength"] = rules.string.max_len
    return made


def _is_needed(field: FieldDescriptor) -> bool:
    rules = field.GetOptions().Extensions[validate_pb2.field]
    pattern = rules.string.pattern
    return bool(rules.required or rules.string.min_len or (pattern and not re.search(pattern, "")))


def _is_printed(field: FieldDescriptor) -> bool:
    return field.is_repeated or (field.message_type is None and not field.has_presence)
