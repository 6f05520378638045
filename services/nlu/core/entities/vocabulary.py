r"""The agent's own entity types: closed lists, and RE2 patterns.

Patterns are written by agent builders and not to be trusted, so they run under RE2: no look-around, no
back-references, time linear in the text, memory capped. A pattern that does not compile finds nothing and is logged
when its revision is first used; the trainer, which the builder runs, refuses it by name.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import re2

from services.nlu.agent import EntityType
from services.nlu.core.entities.spans import Entity

_TOKEN = re.compile(r"[\w\u0300-\u036f]+|[^\w\s]")
_PATTERN_MEMORY = 1 << 20
_MATCHES = 20
"""Most matches of one pattern in a text: each costs a pass over the text at worst."""


class BadPattern(Exception):
    """RE2 cannot take the pattern. The message says why."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int


class Vocabulary:
    """Finds the agent's own entities. Made once for a revision; takes no lock and changes nothing when used."""

    def __init__(self, types: Iterable[EntityType]) -> None:
        """Compiles lists and patterns.

        Args:
            types: The agent's entity types, in the order that breaks ties.
        """
        self.problems: list[str] = []
        self._phrases: dict[tuple[str, ...], dict[str, str]] = {}  # tokens to type to value
        self._sizes: dict[str, set[int]] = {}  # first token to the sizes of the phrases that begin with it
        self._patterns: list[tuple[str, Any]] = []
        for each in types:
            self._add(each)

    @property
    def patterns(self) -> int:
        """How many patterns there are: what looking through a text costs grows with it."""
        return len(self._patterns)

    def find(self, text: str) -> Iterator[Entity]:
        """Entities of the agent's own types; they may overlap."""
        if self._phrases:
            yield from self._listed(text)
        for name, pattern in self._patterns:
            for match in islice(pattern.finditer(text), _MATCHES):
                if match.group():
                    value = (match.group(1) if pattern.groups else "") or match.group()
                    yield Entity(name, match.group(), match.start(), match.end(), value)

    def _add(self, entity_type: EntityType) -> None:
        for listed in entity_type.values:
            for said in (listed.value, *listed.synonyms):
                tokens = tuple(token.text for token in tokens_of(said))
                if tokens:
                    self._phrases.setdefault(tokens, {}).setdefault(entity_type.name, listed.value)
                    self._sizes.setdefault(tokens[0], set()).add(len(tokens))
        for pattern in entity_type.patterns:
            try:
                self._patterns.append((entity_type.name, compile_pattern(pattern)))
            except BadPattern as error:
                self.problems.append(f"entity type {entity_type.name}: pattern {pattern!r}: {error}")

    def _listed(self, text: str) -> Iterator[Entity]:
        tokens = tokens_of(text)
        words = tuple(token.text for token in tokens)
        for place, token in enumerate(tokens):
            for size in self._sizes.get(token.text, ()):
                for name, value in self._phrases.get(words[place : place + size], {}).items():
                    start, end = token.start, tokens[place + size - 1].end
                    yield Entity(name, text[start:end], start, end, value)


def compile_pattern(pattern: str) -> Any:
    """A pattern, compiled.

    Raises:
        BadPattern: it is no RE2 expression, or too large.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        raise BadPattern(said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)) from None


def tokens_of(text: str) -> list[_Token]:
    """Words and single signs, case folded. Words are what spaces and signs part: scripts without spaces have none."""
    return [_Token(match.group().casefold(), match.start(), match.end()) for match in _TOKEN.finditer(text)]
