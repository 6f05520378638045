"""Checks arguments against a tool's JSON Schema (2020-12).

A schema is a stranger's program. So nothing is ever fetched for it, its expressions run in linear time, and before it
is compiled its references are followed and counted: without that, thirty definitions that each refer twice to the next
take hours to check.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

from services.kit.errors import FailedPrecondition, InvalidToolArguments

MAX_SUBSCHEMAS = 2_000
_MAX_ERRORS = 16
_MAX_MESSAGE = 200

_ONE = frozenset(
    "additionalItems additionalProperties contains contentSchema else if items not propertyNames then "
    "unevaluatedItems unevaluatedProperties".split()
)
_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_MAP = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_NO_ARGUMENTS = {"type": "object", "additionalProperties": False}

SchemaKey = tuple[str, str, int, str]
"""Tenant, agent, revision, tool."""


class Schemas:
    """Compiled schemas, the most recently used ones kept."""

    def __init__(self, size: int = 1024) -> None:
        """Keeps `size` of them."""
        self._size = size
        self._kept: OrderedDict[SchemaKey, jsonschema_rs.Validator] = OrderedDict()

    async def check(self, key: SchemaKey, schema: Mapping[str, Any] | None, arguments: dict[str, Any]) -> None:
        """Returns when the arguments fit.

        Args:
            key: Names the schema; the same key is always the same schema.
            schema: None: there are no arguments.
            arguments: What to check.

        Raises:
            InvalidToolArguments: they do not fit; with a field per argument.
            FailedPrecondition: the schema cannot be used.
        """
        validator = self._kept.get(key)
        if validator is None:
            # A large schema takes tens of milliseconds to compile.
            validator = await asyncio.to_thread(compile_schema, schema, key[3])
            self._kept[key] = validator
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        if not validator.is_valid(arguments):
            raise _invalid(itertools.islice(validator.iter_errors(arguments), _MAX_ERRORS))


def compile_schema(schema: Mapping[str, Any] | None, tool: str) -> jsonschema_rs.Validator:
    """The schema, ready to check with.

    Raises:
        FailedPrecondition: it is no schema, refers to another document or back to itself, or is too large.
    """
    document = dict(schema) if schema is not None else _NO_ARGUMENTS
    try:
        _count(document, document, frozenset())
        return jsonschema_rs.Draft202012Validator(
            document, retriever=_deny, pattern_options=jsonschema_rs.RegexOptions(), validate_formats=False
        )
    except (ValueError, RecursionError) as error:
        what = str(error).partition("\n")[0][:_MAX_MESSAGE] or "nests too deep"
        raise FailedPrecondition(f"the JSON Schema of the tool {tool} cannot be used: {what}") from None


def _deny(_uri: str) -> Any:
    raise ValueError("references to other documents are refused")


def _count(schema: Any, document: Mapping[str, Any], following: frozenset[str]) -> int:
    """How many subschemas checking may visit: each reference counts as what it refers to."""
    if not isinstance(schema, dict):
        return 1
    total = 1
    reference = schema.get("$ref")
    if reference is not None:
        if reference in following:
            raise ValueError("a reference leads back to itself")
        total += _count(_target(reference, document), document, following | {reference})
    if "$dynamicRef" in schema or "$recursiveRef" in schema or ("$id" in schema and schema is not document):
        raise ValueError("$dynamicRef, $recursiveRef and inner $id are refused")
    for child in _children(schema):
        total += _count(child, document, following)
        if total > MAX_SUBSCHEMAS:
            break
    if total > MAX_SUBSCHEMAS:
        raise ValueError(f"with its references followed it has more than {MAX_SUBSCHEMAS} subschemas")
    return total


def _children(schema: Mapping[str, Any]) -> Iterator[Any]:
    for keyword, value in schema.items():
        if keyword in _MAP and isinstance(value, dict):
            yield from value.values()
        elif keyword in _LIST and isinstance(value, list):
            yield from value
        elif keyword in _ONE:
            yield value


def _target(reference: Any, document: Mapping[str, Any]) -> Any:
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ValueError("references to other documents, and to anchors, are refused")
    at: Any = document
    for part in reference.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and name.isdecimal() and int(name) < len(at):
            at = at[int(name)]
        elif isinstance(at, dict) and name in at:
            at = at[name]
        else:
            raise ValueError("a reference leads nowhere")
    return at


def _invalid(errors: Iterator[jsonschema_rs.ValidationError]) -> InvalidToolArguments:
    fields: dict[str, str] = {}
    for error in errors:
        path = [str(part) for part in error.instance_path]
        if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
            path.append(error.kind.property)
        fields.setdefault(".".join(["arguments", *path]), error.message[:_MAX_MESSAGE])
    listed = "; ".join(f"{path}: {what}" for path, what in fields.items())
    return InvalidToolArguments(f"the arguments do not fit the tool: {listed}", fields=fields)
