"""What the trainer says of a head."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from services.nlu.intents.features import Floats
from services.nlu.intents.head import IntentHead, softmax
from services.nlu.training.fit import Evaluation, Examples, Labels

_BINS = 10
_WORST = 5


@dataclass(frozen=True, slots=True)
class IntentResult:
    """How one intent's examples do out of fold."""

    name: str
    examples: int
    recall: float
    taken_for: str
    """The intent they are most often taken for. Empty: none is wrong."""

    wrong: str
    """The example that is most surely wrong. Empty: none is."""


def accuracy(evaluation: Evaluation, labels: Labels) -> float:
    """Share of the examples whose intent is ranked first."""
    return float((evaluation.logits.argmax(axis=1) == labels).mean())


def calibration_error(confidences: Floats, labels: Labels) -> float:
    """Expected calibration error in ten bins of equal width; source: Naeini et al. 2015."""
    best, right = confidences.max(axis=1), confidences.argmax(axis=1) == labels
    bins = np.minimum((best * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float(best[bins == each].mean() - right[bins == each].mean())) * (bins == each).sum()
            for each in np.unique(bins)]  # fmt: skip
    return float(sum(gaps) / len(labels))


def worst(evaluation: Evaluation, examples: Examples) -> list[IntentResult]:
    """The intents that are missed most, at most five, none that is never missed."""
    confidences, found = softmax(evaluation.logits), evaluation.logits.argmax(axis=1)
    results = []
    for place, name in enumerate(examples.names):
        mine = np.flatnonzero(examples.labels == place)
        wrong = mine[found[mine] != place]
        if len(wrong):
            (other, _), *_ = Counter(found[wrong].tolist()).most_common(1)
            surest = wrong[int(confidences[wrong].max(axis=1).argmax())]
            recall = 1 - len(wrong) / len(mine)
            results.append(IntentResult(name, len(mine), recall, examples.names[other], examples.texts[surest]))
    return sorted(results, key=lambda result: result.recall)[:_WORST]


def shared(examples: Examples) -> list[str]:
    """Examples that two intents claim, case ignored."""
    owners: dict[str, set[int]] = {}
    for text, label in zip(examples.texts, examples.labels.tolist(), strict=True):
        owners.setdefault(text.casefold().strip(), set()).add(label)
    return sorted(text for text, intents in owners.items() if len(intents) > 1)


def lines(head: IntentHead, evaluation: Evaluation, examples: Examples) -> Iterator[str]:
    """The report, for a person."""
    labels, confidences = examples.labels, softmax(evaluation.logits)
    yield f"{len(examples.names)} intents, {len(labels)} examples, {evaluation.folds}-fold cross-validation"
    yield f"accuracy                    {accuracy(evaluation, labels):.1%}"
    yield f"expected calibration error  {calibration_error(confidences, labels):.3f}"
    yield f"regularisation C            {evaluation.strength:g}"
    yield f"out of scope below          similarity {head.min_similarity:.2f}, confidence {head.min_confidence:.2f}"
    for result in worst(evaluation, examples):
        yield (
            f"{result.name}: {result.recall:.0%} of {result.examples} right, taken for {result.taken_for}, "
            f'as in "{result.wrong}"'
        )
    for text in shared(examples):
        yield f'two intents have the example "{text}"'
