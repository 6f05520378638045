"""What nlu knows of an agent: its intents with their examples, and the entity types of its own."""

from dataclasses import dataclass, field

BUILTIN_TYPES = ("email", "url", "phone", "date", "amount", "number")
"""Entity types every agent has; an agent cannot define one of the same name."""


@dataclass(frozen=True, slots=True)
class Intent:
    """Something people want of the agent."""

    name: str
    examples: tuple[str, ...]
    tool: str = ""
    """Name of the tool it is bound to. Empty: none."""


@dataclass(frozen=True, slots=True)
class ListedValue:
    """One value of a closed list, and other ways to say it."""

    value: str
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EntityType:
    """A kind of thing the agent looks for, by list and by RE2 patterns."""

    name: str
    values: tuple[ListedValue, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Agent:
    """One revision of an agent. It never changes."""

    name: str
    revision: int
    intents: tuple[Intent, ...] = field(default=(), repr=False)
    entities: tuple[EntityType, ...] = field(default=(), repr=False)
