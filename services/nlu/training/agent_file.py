"""Reads an agent file: YAML, the JSON form of `myriad.common.v1.Agent`."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import protovalidate
import yaml
from google.protobuf import json_format

from myriad.common.v1 import agent_pb2
from services.kit.errors import InvalidArgument
from services.kit.interceptors.validation import check
from services.nlu.adapters.memory import agent_of
from services.nlu.agent import BUILTIN_TYPES, Agent
from services.nlu.core.entities.vocabulary import BadPattern, compile_pattern


class AgentFileError(Exception):
    """The file makes no agent that can be trained. The message names file and field."""


def read(path: Path) -> Agent:
    """The agent in a file.

    Raises:
        AgentFileError: the file cannot be read, is no YAML, breaks the contract of an agent, or has nothing to train.
    """
    try:
        return agent_from(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AgentFileError(f"{path}: {_one_line(error)}") from None
    except json_format.ParseError as error:
        raise AgentFileError(f"{path}: {_one_line(error)}") from None
    except InvalidArgument as error:
        wrong = "; ".join(f"{field}: {text}" for field, text in error.fields.items())
        raise AgentFileError(f"{path}: {wrong}") from None


def agent_from(content: Any) -> Agent:
    """The agent of a file's content.

    Raises:
        json_format.ParseError: it is not the JSON form of an agent; says where.
        InvalidArgument: a field breaks its rules; names each.
    """
    if not isinstance(content, dict):
        raise json_format.ParseError("an agent file holds one mapping")
    message = json_format.ParseDict(content, agent_pb2.Agent())
    check(protovalidate.Validator(), message)
    agent = agent_of(message)
    wrong = dict(_problems(agent))
    if wrong:
        raise InvalidArgument("the agent is wrong", fields=wrong)
    return agent


def _problems(agent: Agent) -> Iterator[tuple[str, str]]:
    """What the contract asks for in words only: field and what is wrong with it."""
    if not agent.intents:
        yield "intents", "there are none to train"
    yield from _repeated("intents", (intent.name for intent in agent.intents))
    yield from _repeated("entities", (entity.name for entity in agent.entities))
    for place, intent in enumerate(agent.intents):
        if len(set(intent.examples)) < 2:
            yield f"intents[{place}].examples", "needs two that differ"
        elif not all(example.strip() for example in intent.examples):
            yield f"intents[{place}].examples", "one is blank"
    for place, entity in enumerate(agent.entities):
        if entity.name in BUILTIN_TYPES:
            yield f"entities[{place}].name", f"{entity.name} is a built-in type"
        for at, pattern in enumerate(entity.patterns):
            try:
                compile_pattern(pattern)
            except BadPattern as error:
                yield f"entities[{place}].patterns[{at}]", f"is no RE2 expression: {error}"


def _repeated(field: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        yield field, f"not unique: {', '.join(twice)}"


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())
