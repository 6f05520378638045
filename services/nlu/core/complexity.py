r"""How hard an utterance is to answer: 0.3 tools + 0.4 multi_step + 0.3 reasoning, each 0 to 1.

The weights are the router's of the design; the factors are sums of visible signs, so that a score can be explained:

- tools: its intent is bound to a tool (the intent's confidence, in scope only); else 0.5 for a verb of doing
  (cancel, refund, track …) and 0.2 for each kind of entity it names, 0.4 at most.
- multi_step: 0.4 for each sign of order or addition (then, after that, and also, finally …), 0.3 for each line that is
  an item of a list, 0.25 for each question after the first, 0.2 for each further verb of doing, 0.1 for each sentence
  after the second.
- reasoning: 0.5 for each strong sign (why, explain, compare, versus, pros and cons, trade-off …), 0.3 for each weak one
  (how, should, better, if, because …), and 0.1 for each 40 words.

Words are English; of other languages only sentences, questions, lists and length count. Each factor stops at 1.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

_LIMIT = 4000
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE = re.compile(r"[.!?。！？]+(?=\s|$)")
_QUESTION = re.compile(r"[?？]")
_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+", re.MULTILINE)
_ORDER = re.compile(
    r"\b(?:then|after (?:that|this|which)|afterwards|finally|first of all|firstly|secondly|next,|and also|as well as"
    r"|step by step|once (?:that|this|you)|followed by|before (?:that|you))\b"
)
_STRONG = re.compile(
    r"\b(?:why|explain|compar\w+|versus|vs|differences?|differ|analy[sz]e|pros and cons|trade-?offs?|evaluate|prove"
    r"|justify|reason(?:s|ing)?|implications?|estimate|optimi[sz]e|diagnose)\b"
)
_WEAK = re.compile(r"\b(?:how|should|better|best|which|if|unless|because|recommend|worth|instead|except|depends?)\b")
_DOING = frozenset(
    "add apply arrange book buy calculate cancel change check close compute convert create delete dispatch download "
    "exchange fetch find forward generate look pay print refund register reissue remove renew "
    "replace reschedule reserve return schedule search send ship submit subscribe swap track transfer unsubscribe "
    "update upgrade verify withdraw".split()
)


@dataclass(frozen=True, slots=True)
class Complexity:
    """How hard, and why."""

    score: float
    tools: float
    multi_step: float
    reasoning: float


def assess(text: str, *, bound: float, entity_types: Collection[str]) -> Complexity:
    """Assesses a text.

    Args:
        text: The text; the first 4,000 code points are looked at.
        bound: Confidence that its intent is one that calls a tool, 0 to 1. 0: its intent calls none, or is not known.
        entity_types: Kinds of entities found in it.
    """
    lowered = text[:_LIMIT].lower()
    words = _WORD.findall(lowered)
    doing = sum(word in _DOING for word in words)
    tools = max(bound, 0.5 * (doing > 0) + min(0.4, 0.2 * len(entity_types)))
    steps = 0.4 * len(_ORDER.findall(lowered)) + 0.3 * len(_ITEM.findall(lowered))
    steps += 0.25 * max(0, len(_QUESTION.findall(lowered)) - 1) + 0.2 * max(0, doing - 1)
    steps += 0.1 * max(0, len(_SENTENCE.findall(lowered)) - 2)
    reasons = 0.5 * len(_STRONG.findall(lowered)) + 0.3 * len(_WEAK.findall(lowered)) + 0.1 * (len(words) // 40)
    return weighted(min(1.0, tools), min(1.0, steps), min(1.0, reasons))


def weighted(tools: float, multi_step: float, reasoning: float) -> Complexity:
    """The score of the three factors."""
    return Complexity(0.3 * tools + 0.4 * multi_step + 0.3 * reasoning, tools, multi_step, reasoning)
