"""What an entity is, and which ones stay when they overlap."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.nlu.agent import BUILTIN_TYPES

MOST = 100
"""At most this many entities are found in a text."""


@dataclass(frozen=True, slots=True)
class Entity:
    """Something found in a text. Offsets are in code points; `end` is one past the last."""

    type: str
    text: str
    start: int
    end: int
    value: str

    def overlaps(self, other: "Entity") -> bool:
        """Whether they share a code point."""
        return self.start < other.end and other.start < self.end

    def nests(self, other: "Entity") -> bool:
        """Whether one of them lies within the other."""
        within = self.start <= other.start and other.end <= self.end
        return within or (other.start <= self.start and self.end <= other.end)


def resolve(builtin: Iterable[Entity], own: Iterable[Entity]) -> list[Entity]:
    """Those that stay, in the order they stand in the text, at most `MOST`.

    The agent's own types come first, then the longer, then the earlier, then the order given. One goes when it
    overlaps one that stays, unless they are of different types, one lies within the other, and one of them is the
    agent's own: an order number may be a number too, but the digits of an amount are not a number besides.
    """
    kept: list[Entity] = []
    by_length = sorted(own, key=lambda each: (each.start - each.end, each.start))
    by_length += sorted(builtin, key=lambda each: (each.start - each.end, _rank(each), each.start))
    for entity in by_length:
        if len(kept) < MOST and all(_both_may_stay(entity, other) for other in kept if entity.overlaps(other)):
            kept.append(entity)
    return sorted(kept, key=lambda each: (each.start, -each.end))


def _both_may_stay(entity: Entity, other: Entity) -> bool:
    one_is_own = entity.type not in BUILTIN_TYPES or other.type not in BUILTIN_TYPES
    return entity.type != other.type and one_is_own and entity.nests(other)


def _rank(entity: Entity) -> int:
    return BUILTIN_TYPES.index(entity.type)
