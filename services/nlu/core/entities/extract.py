"""All entities of a text."""

from datetime import datetime

from services.nlu.core.entities import amounts, contacts
from services.nlu.core.entities.dates import Dates, may_hold_date
from services.nlu.core.entities.spans import Entity, resolve
from services.nlu.core.entities.vocabulary import Vocabulary

_SHORT = 300
_PATTERN_WORK = 20_000


class Extractor:
    """Finds entities: built-in types by libraries, the agent's own by its vocabulary."""

    def __init__(self, phone_region: str) -> None:
        """Reads national phone numbers of `phone_region`; empty: none."""
        self._phone_region = phone_region
        self._dates = Dates()

    def warm(self) -> None:
        """Has the libraries build what they build at their first use."""
        self._dates.warm()
        list(contacts.phones("+1 202 555 0123 +44 20 7946 0958", self._phone_region))
        list(amounts.amounts("1 EUR"))

    def is_cheap(self, text: str, vocabulary: Vocabulary) -> bool:
        """True: `find` takes well under a millisecond, so a thread is not worth its cost."""
        return (
            len(text) <= _SHORT
            and len(text) * vocabulary.patterns <= _PATTERN_WORK
            and not may_hold_date(text)
            and not contacts.may_hold_phone(text)
        )

    def find(self, text: str, vocabulary: Vocabulary, now: datetime) -> list[Entity]:
        """Entities in the order they stand in the text.

        Args:
            text: The text.
            vocabulary: The agent's own types.
            now: What dates are relative to, with a zone.
        """
        found = [*contacts.emails(text), *contacts.urls(text)]
        if any(map(str.isdecimal, text)):
            found += contacts.phones(text, self._phone_region)
            found += amounts.amounts(text)
            found += amounts.numbers(text)
        if may_hold_date(text):
            found += self._dates.find(text, now.replace(tzinfo=None))
        return resolve(found, vocabulary.find(text))
