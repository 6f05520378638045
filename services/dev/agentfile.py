"""Reads an agent from its folder: `agent.yaml` and `knowledge/*.md`. Says of each mistake where it is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import protovalidate
import yaml
from google.protobuf import json_format

from myriad.common.v1 import agent_pb2
from myriad.retrieval.v1 import retrieval_pb2
from services.dev.command import Failed
from services.kit.errors import InvalidArgument
from services.kit.interceptors.validation import check

AGENT_FILE = "agent.yaml"
KNOWLEDGE_FOLDER = "knowledge"

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_AT = re.compile(r'\s*at "?Agent\.?([^"\s]*?)"?\.*$')
_INTO = re.compile(r"^Failed to parse (\w+) field: ")
_UNKNOWN = re.compile(r'^Message type "[\w.]+" has no field named "([^"]*)"')


class AgentFileError(Failed):
    """The files do not make an agent. The message has a line for each mistake: file, line, field, what is wrong."""


@dataclass(frozen=True)
class AgentSource:
    """An agent as its files tell it."""

    file: Path
    """The YAML file."""

    agent: agent_pb2.Agent
    documents: tuple[retrieval_pb2.Document, ...]
    """What goes into the agent's first collection, by id."""

    alone: bool = False
    """It was read from a file and not from a folder: it says nothing of documents."""


def read(path: Path) -> AgentSource:
    """Reads an agent.

    Args:
        path: A folder with agent.yaml and, if the agent has any, knowledge/*.md; or a YAML file, without documents.

    Raises:
        AgentFileError: what is there is no agent.
    """
    file = path / AGENT_FILE if path.is_dir() else path
    value, lines = _parse(file, _text(file))
    agent = _agent(file, value, lines)
    documents = _documents(path / KNOWLEDGE_FOLDER) if path.is_dir() else ()
    if documents and not agent.knowledge.collections:
        raise AgentFileError(f"{file}: knowledge.collections: must name a collection for the documents beside it")
    return AgentSource(file, agent, documents, alone=not path.is_dir())


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise AgentFileError(f"{file}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise AgentFileError(f"{file}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise AgentFileError(f"{file}: cannot be read: {error.strerror}") from None


def _parse(file: Path, text: str) -> tuple[Any, Mapping[str, int]]:
    """The value in a YAML text, and the line of each field by its path.

    Scalars are only what JSON has: a date stays the text that it is in the file.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[str, int] = {}
        value = _value(root, "", lines) if root is not None else None
    except yaml.MarkedYAMLError as error:
        line = f"{error.problem_mark.line + 1}: " if error.problem_mark else " "
        raise AgentFileError(f"{file}:{line}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise AgentFileError(f"{file}: {error}") from None
    except RecursionError:
        raise AgentFileError(f"{file}: is nested too deep") from None
    if not isinstance(value, dict):
        raise AgentFileError(f"{file}: must be a mapping with the fields of an agent (name, persona, ...)")
    return value, lines


def _value(node: yaml.Node, path: str, lines: dict[str, int]) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, f"{path}[{index}]", lines) for index, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        if node.tag == _TIMESTAMP:
            return node.value
        return yaml.constructor.SafeConstructor().construct_object(node)
    found: dict[str, Any] = {}
    for key, child in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be a text", problem_mark=key.start_mark)
        if key.value in found:
            raise yaml.MarkedYAMLError(problem=f"{key.value}: is there twice", problem_mark=key.start_mark)
        below = f"{path}.{key.value}" if path else key.value
        lines[below] = key.start_mark.line + 1
        found[key.value] = _value(child, below, lines)
    return found


def _agent(file: Path, value: Any, lines: Mapping[str, int]) -> agent_pb2.Agent:
    try:
        agent = json_format.ParseDict(value, agent_pb2.Agent())
    except json_format.ParseError as error:
        field, wrong = _parse_error(str(error))
        raise AgentFileError(located(file, lines, {field: wrong})) from None
    try:
        check(protovalidate.Validator(), agent)
    except InvalidArgument as error:
        raise AgentFileError(located(file, lines, error.fields)) from None
    return agent


def _parse_error(text: str) -> tuple[str, str]:
    """Field and mistake in what protobuf's JSON parser says."""
    text = text.partition("\n")[0]
    into = []
    while begins := _INTO.match(text):
        into.append(begins[1])
        text = text[begins.end() :]
    at = _AT.search(text)
    field = at[1].rstrip(".") if at and at[1] else ".".join(into)
    text = _AT.sub("", text).rstrip(".")
    if unknown := _UNKNOWN.match(text):
        return (f"{field}.{unknown[1]}" if field else unknown[1]), "there is no such field"
    return field, re.sub("^expected string or bytes-like object", "must be a text", text)


def located(file: Path, lines: Mapping[str, int], wrong: Mapping[str, str]) -> str:
    """A line of text for each mistake.

    Args:
        file: The file.
        lines: Line by path of field.
        wrong: Mistake by path of field.
    """
    return "\n".join(f"{file}:{_line(lines, field)}: {field or 'the agent'}: {text}" for field, text in wrong.items())


def _line(lines: Mapping[str, int], field: str) -> int:
    """The line of a field; of one that is not in the file, the line of what should hold it."""
    while field and field not in lines:
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return lines.get(field, 1)


def _documents(folder: Path) -> tuple[retrieval_pb2.Document, ...]:
    """A document for each Markdown file: its id is the file's name, its title the first heading."""
    validator = protovalidate.Validator()
    documents = []
    for file in sorted(folder.glob("*.md")):
        text = _text(file)
        title = next((line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")), "")
        document = retrieval_pb2.Document(document_id=file.stem, title=title, text=text)
        try:
            check(validator, document)
        except InvalidArgument as error:
            raise AgentFileError(located(file, {}, error.fields)) from None
        documents.append(document)
    return tuple(documents)
