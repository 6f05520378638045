"""Dates and times as people write them, to ISO 8601.

timefhuman reads English well and is trusted with phrases only: it is quadratic in long texts, so it is given the
neighbourhood of words that look like a date, and its caches are not safe between threads, so one thread at a time
uses it. What it gets wrong or lacks is read here: ISO and dotted dates, `12 March`, the day after tomorrow.
"""

import re
import threading
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

from timefhuman import tfhConfig, timefhuman

from services.nlu.core.entities.spans import Entity

_DAY = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?"
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_HINT = re.compile(
    rf"\b(?:{_DAY}|{_MONTH}|today|tomorrow|yesterday|tonight|noon|midnight|morning|afternoon|evening|ago"
    r"|in\s+(?:an?|\d+|[a-z]{3,8})\s+(?:minute|hour|day|week|month|year)s?|from now|later"
    r"|\d{1,2}(?::\d{2})?\s?[ap]\.?m\b|\d{1,2}(?:st|nd|rd|th))\b|\b\d{1,4}[-/.:]\d{1,2}\b",
    re.IGNORECASE,
)
_ISO = re.compile(
    r"(?<![\w-])\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?(?:Z|[+-]\d{2}:?\d{2})?)?(?![\w-])"
)
_DOTTED = re.compile(r"(?<![\w.])(\d{1,2})\.(\d{1,2})\.(\d{4})(?![\w]|\.\d)")
_OFFSET_DAY = re.compile(r"\b(?:the\s+)?day\s+(after\s+tomorrow|before\s+yesterday)\b", re.IGNORECASE)
_DAY_MONTH = re.compile(rf"\b(\d{{1,2}})(\s+)({_MONTH})(?![a-z])", re.IGNORECASE)
_BETWEEN = re.compile(r"[;!?\n]|\.(?=\s|$)")
_MEMBERS = re.compile(r"\s*(?:,|\bor\b|\band\b)\s*")
_FORWARD = re.compile(r"\s*(?:from (?:now|today)|later)\b", re.IGNORECASE)
_NOT_A_DATE = re.compile(r"sat|sun|mar|second|a second|\d+[smhdwap]?|\d+[.-]\d+|\d+ ?(?:to|or|and|-) ?\d+", re.ASCII)
_ALWAYS = re.compile(r"\b24/7\b")
_BEFORE, _AFTER = 24, 48
_PHRASES = 8
_WEEK = timedelta(days=7)


class Dates:
    """Finds dates and times."""

    def __init__(self) -> None:
        """Does nothing yet; the first use of the library costs 0.1 s: `warm`."""
        self._turn = threading.Lock()

    def warm(self) -> None:
        """Has the library build what it builds at its first use."""
        config = tfhConfig(now=datetime(2025, 1, 1), return_matched_text=True)  # noqa: DTZ001
        with self._turn:
            timefhuman("christmas", config=config)
            timefhuman("next Monday at 5pm EST", config=config)

    def find(self, text: str, now: datetime) -> Iterator[Entity]:
        """Dates, times and ranges of them; the value is ISO 8601.

        A date is `2025-03-12`; with a time, `2025-03-12T17:00`, and its offset when the text names a zone; a range is
        two with `/` between. Slashed dates are read month first (`03/12/2025`) unless that is no date, dotted ones day
        first. A duration is a date only when it says from when (`in 3 days`, `2 weeks ago`). At most eight phrases of
        a text are read.

        Args:
            text: The text.
            now: What the dates are relative to: local time where the writer is, without a zone.
        """
        for entity in _exact(text, now.date()):
            yield entity
            text = text[: entity.start] + " " * (entity.end - entity.start) + text[entity.end :]
        for start, phrase in _phrases(_ALWAYS.sub("    ", text)):
            yield from self._read(phrase, start, now)

    def _read(self, phrase: str, offset: int, now: datetime) -> Iterator[Entity]:
        config = tfhConfig(now=now, return_matched_text=True, infer_datetimes=False)
        swapped = _DAY_MONTH.sub(_month_first, phrase)
        try:
            with self._turn:
                found = timefhuman(swapped, config=config)
        except (ValueError, OverflowError):  # it takes ² for a digit, and does not bound what it adds up
            return
        for _, (start, end), meant in found:
            matched = phrase[start:end]
            trimmed = matched.rstrip(" ,.")
            for begin, said, value in _members(trimmed, meant):
                at = start + begin
                if isinstance(value, timedelta):
                    said = _with_forward(said, phrase[at + len(said) :])
                iso = _iso(value, said, now)
                half = phrase[:at].lower().endswith("half ")  # the library reads `half an hour ago` as an hour ago
                if iso and not half and not _NOT_A_DATE.fullmatch(said):
                    yield Entity("date", said, offset + at, offset + at + len(said), iso)


def may_hold_date(text: str) -> bool:
    """Cheap: False when there is surely no date."""
    return _HINT.search(text) is not None


def _phrases(text: str) -> Iterator[tuple[int, str]]:
    """Neighbourhoods of what looks like a date, none across the end of a sentence, with their offsets."""
    hints = _HINT.finditer(text)
    done = 0
    for _ in range(_PHRASES):
        hint = next((each for each in hints if each.start() >= done), None)
        if hint is None:
            return
        start = max(done, _word_border(text, hint.start() - _BEFORE))
        end = _word_border(text, hint.end() + _AFTER)
        for stop in _BETWEEN.finditer(text, start, end):
            if stop.start() < hint.start():
                start = stop.end()
            elif stop.start() >= hint.end():
                end = stop.start()
                break
        yield start, text[start:end]
        done = end


def _word_border(text: str, position: int) -> int:
    """The next border between words at or before `position`, not far from it."""
    if position <= 0 or position >= len(text):
        return max(0, min(position, len(text)))
    space = text.rfind(" ", max(0, position - 20), position + 1)
    return position if space < 0 else space


def _exact(text: str, today: date) -> list[Entity]:
    found = []
    for match in _ISO.finditer(text):
        found.append(_entity(match, _parsed_iso(match.group())))
    for match in _DOTTED.finditer(text):
        day, month, year = (int(part) for part in match.groups())
        found.append(_entity(match, _date_or_none(year, month, day)))
    for match in _OFFSET_DAY.finditer(text):
        days = 2 if "tomorrow" in match.group().lower() else -2
        found.append(_entity(match, _moved(today, days)))
    return [entity for entity in found if entity.value]


def _entity(match: "re.Match[str]", value: date | None) -> Entity:
    return Entity("date", match.group(), match.start(), match.end(), _iso_of_date(value) if value else "")


def _parsed_iso(said: str) -> date | None:
    try:
        return date.fromisoformat(said) if len(said) == 10 else datetime.fromisoformat(said)
    except ValueError:
        return None


def _date_or_none(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


def _moved(start: date, days: int) -> date | None:
    try:
        return start + timedelta(days=days)
    except OverflowError:
        return None


def _month_first(match: "re.Match[str]") -> str:
    """`12 March` as `March 12`, which is as long, so that offsets stay."""
    day, gap, month = match.groups()
    return f"{month}{gap}{day}"


def _members(said: str, meant: Any) -> Iterator[tuple[int, str, Any]]:
    """Offset, words and meaning of each member of a list; of anything else, the thing itself."""
    if not isinstance(meant, list):
        yield 0, said, meant
        return
    parts, at = [], 0
    for stop in [*_MEMBERS.finditer(said), None]:
        end = stop.start() if stop else len(said)
        if end > at:
            parts.append((at, said[at:end]))
        at = stop.end() if stop else end
    if len(parts) == len(meant):
        for (begin, words), each in zip(parts, meant, strict=True):
            yield begin, words, each
    elif meant:
        yield 0, said, meant[0]


def _with_forward(said: str, after: str) -> str:
    """A duration with the words after it that say from when."""
    forward = _FORWARD.match(after)
    return said + forward.group() if forward else said


def _iso(meant: Any, said: str, now: datetime) -> str:
    """ISO 8601. Empty: it is no date, or one beyond the year 9999."""
    try:
        if isinstance(meant, tuple):
            return _range(meant, now)
        if isinstance(meant, timedelta):
            return _relative(meant, said, now)
        return _iso_of_date(_resolved(meant, now)) if isinstance(meant, date | time) else ""
    except OverflowError:
        return ""


def _range(meant: tuple[Any, ...], now: datetime) -> str:
    """The library gives the next of each weekday, so that Monday to Wednesday may seem to run backwards."""
    ends = [_resolved(each, now) for each in meant if isinstance(each, date | time)]
    if len(ends) != 2 or type(ends[0]) is not type(ends[1]):
        return ""
    first, last = ends
    if isinstance(first, datetime) and isinstance(last, datetime) and (first.tzinfo is None) != (last.tzinfo is None):
        return ""
    if last < first:
        last = last + _WEEK
    return f"{_iso_of_date(first)}/{_iso_of_date(last)}" if first <= last else ""


def _relative(meant: timedelta, said: str, now: datetime) -> str:
    words = said.lower()
    if not (words.startswith("in ") or words.endswith(("ago", "from now", "from today", "later"))):
        return ""
    if "month" in words or "year" in words:
        months = round(meant.days / 30) if "month" in words else 12 * round(meant.days / 365)
        return _iso_of_date(_month_later(now.date(), months))
    if any(unit in words for unit in ("hour", "min", "sec")):
        return _iso_of_date(now + meant)
    return _iso_of_date((now + meant).date())


def _month_later(start: date, months: int) -> date:
    """The same day of another month, or that month's last."""
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    days = (_date_or_none(year, month + 1, day) for day in range(start.day, start.day - 4, -1))
    found = next((day for day in days if day), None)
    if found is None:
        raise OverflowError("beyond the calendar")
    return found


def _resolved(meant: date | time, now: datetime) -> date:
    """A time of day is the next of its kind."""
    if isinstance(meant, date):
        return meant
    moment = datetime.combine(now.date(), meant)
    return moment if moment.replace(tzinfo=None) >= now else moment + timedelta(days=1)


def _iso_of_date(value: date) -> str:
    if not isinstance(value, datetime):
        return value.isoformat()
    return value.isoformat(timespec="seconds" if value.second else "minutes")
