"""Fits a head: multinomial logistic regression over embedding and n-grams, calibrated by cross-validation.

Every figure that decides something is out of fold: an example is judged by a model that has not seen it.
- Strength of regularisation: the one with the best cross-validated accuracy, then the least log loss.
- Temperature: the one with the least log loss; source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
- Out of scope: an utterance is, when it is less similar to every intent's centroid than nearly all examples are to the
  centroids without themselves, or when its confidence is below what nearly all rightly classified examples have.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from services.nlu.intents.features import Floats, Lexicon, char_hashes, word_hashes
from services.nlu.intents.head import IntentHead, LexicalPart, softmax

LEXICAL_WEIGHT = np.float32(0.5)
"""Length of each n-gram vector beside the embedding's length of 1. Found on Banking77, all and 12 by 12 of it."""
MANY = 2000
"""From this many examples on, the strength is fixed, and n-grams that occur once are left out."""
_STRENGTHS = (3.0, 10.0, 30.0, 100.0)
_STRENGTH_FOR_MANY = 10.0
_FOLDS = 5
_FOLDS_FOR_MANY = 3
_ITERATIONS = 500
_RARE = 0.02
"""Share of the examples that may fall under a threshold."""
_SIMILARITY_MARGIN = 0.05
_SIMILARITY_BOUNDS = (0.2, 0.6)
_MOST_CONFIDENCE = 0.5

Labels = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Examples:
    """What is learned from."""

    texts: Sequence[str]
    labels: Labels
    """Place of each text's intent in `names`."""

    names: tuple[str, ...]
    embeddings: Floats
    """(texts, width), unit length."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the head does out of fold."""

    logits: Floats
    """(texts, intents), calibrated."""

    strength: float
    folds: int


def fit(examples: Examples, version: str) -> tuple[IntentHead, Evaluation]:
    """Fits a head and evaluates it.

    Args:
        examples: At least two per intent.
        version: Digest of what they are.
    """
    with threadpool_limits(1):  # on a busy machine the threads of small products wait for each other, 25 s for 1
        return _fit(examples, version)


def _fit(examples: Examples, version: str) -> tuple[IntentHead, Evaluation]:
    words = _Grams.of(examples.texts, word_hashes)
    chars = _Grams.of(examples.texts, char_hashes)
    features = csr_matrix(hstack([csr_matrix(examples.embeddings), words.rows, chars.rows]), dtype=np.float32)
    rows, basis = _condensed(features)
    logits, strength, folds = _cross_validate(rows, examples)
    temperature = _temperature(logits, examples.labels)
    weights, bias = _weights(rows, examples.labels, len(examples.names), strength)
    weights = (weights if basis is None else weights @ basis) / temperature
    bias = bias / temperature
    width, edge = examples.embeddings.shape[1], examples.embeddings.shape[1] + len(words.lexicon.hashes)
    evaluation = Evaluation(logits / temperature, strength, folds)
    head = IntentHead(
        version=version,
        names=examples.names,
        weights=np.ascontiguousarray(weights[:, :width]),
        bias=bias,
        words=words.part(weights[:, width:edge]),
        chars=chars.part(weights[:, edge:]),
        centroids=centroids(examples),
        min_similarity=_min_similarity(examples),
        min_confidence=_min_confidence(softmax(evaluation.logits), examples.labels),
    )
    return head, evaluation


@dataclass(frozen=True, slots=True)
class _Grams:
    """One kind of n-gram over all examples."""

    lexicon: Lexicon
    rows: csr_matrix

    @classmethod
    def of(cls, texts: Sequence[str], hashes_of: Callable[[str], list[int]]) -> "_Grams":
        hashed = [hashes_of(text) for text in texts]
        frequency = Counter(each for hashes in hashed for each in set(hashes))
        least = 2 if len(texts) >= MANY else 1
        kept = np.array(sorted(each for each, count in frequency.items() if count >= least), np.uint32)
        counts = np.array([frequency[int(each)] for each in kept], np.float32)
        idf = np.log((1 + len(texts)) / (1 + counts)).astype(np.float32) + np.float32(1)
        lexicon = Lexicon(kept, idf)
        weighed = [lexicon.weigh(hashes) for hashes in hashed]
        starts = np.cumsum([0, *(len(places) for places, _ in weighed)])
        places = np.concatenate([places for places, _ in weighed])
        values = np.concatenate([values for _, values in weighed]) * LEXICAL_WEIGHT
        return cls(lexicon, csr_matrix((values, places, starts), shape=(len(texts), len(kept))))

    def part(self, weights: Floats) -> LexicalPart:
        """The head's view of it; the length of the vectors goes into the weights."""
        return LexicalPart(self.lexicon, np.ascontiguousarray((weights * LEXICAL_WEIGHT).T).astype(np.float16))


def _condensed(features: csr_matrix) -> tuple[csr_matrix | Floats, Floats | None]:
    """The same rows in as many columns as there are rows, and what turns weights on them into weights on the features.

    With fewer rows than columns the regularised weights lie in the span of the rows, so the model is the same, and
    fitting it is faster by the ratio of the two. Many rows are left as they are: basis None.
    """
    if features.shape[0] >= MANY:
        return features, None
    values, vectors = np.linalg.eigh((features @ features.T).toarray().astype(np.float64))
    kept = values > values[-1] * 1e-7
    roots = np.sqrt(values[kept])
    basis = (features.T @ (vectors[:, kept] / roots)).T
    return np.asarray(vectors[:, kept] * roots, np.float32), np.asarray(basis, np.float32)


def centroids(examples: Examples) -> Floats:
    """Mean embedding of each intent, unit length."""
    sums = _sums(examples)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


def _sums(examples: Examples) -> Floats:
    sums = np.zeros((len(examples.names), examples.embeddings.shape[1]), np.float32)
    np.add.at(sums, examples.labels, examples.embeddings)
    return sums


def _cross_validate(features: csr_matrix | Floats, examples: Examples) -> tuple[Floats, float, int]:
    """Out-of-fold logits by the best strength, that strength, and the number of folds."""
    labels, intents = examples.labels, len(examples.names)
    many = len(labels) >= MANY
    folds = min(_FOLDS_FOR_MANY if many else _FOLDS, int(np.bincount(labels).min()))
    if intents == 1:
        return np.zeros((len(labels), 1), np.float32), _STRENGTH_FOR_MANY, folds
    best: tuple[tuple[float, float], Floats, float] | None = None
    for strength in (_STRENGTH_FOR_MANY,) if many else _STRENGTHS:
        logits = np.zeros((len(labels), intents), np.float32)
        for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(features, labels):
            weights, bias = _weights(features[train], labels[train], intents, strength)
            logits[test] = features[test] @ weights.T + bias
        right = float((logits.argmax(1) == labels).mean())
        score = (right, -log_loss(logits / _temperature(logits, labels), labels))
        if best is None or score > best[0]:
            best = (score, logits, strength)
    assert best is not None  # there is a strength
    return best[1], best[2], folds


def _weights(features: csr_matrix | Floats, labels: Labels, intents: int, strength: float) -> tuple[Floats, Floats]:
    """Weights (intents, features) and bias."""
    if intents == 1:
        return np.zeros((1, features.shape[1]), np.float32), np.zeros(1, np.float32)
    model = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(features, labels)
    weights, bias = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
    if intents == 2:  # one row for both: its half speaks against the first and for the second
        half = np.float32(0.5)
        return half * np.concatenate([-weights, weights]), half * np.concatenate([-bias, bias])
    return weights, bias


def log_loss(logits: Floats, labels: Labels) -> float:
    """Mean negative log-likelihood of the true intents."""
    confidences = softmax(logits)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(confidences, 1e-12)).mean())


def _temperature(logits: Floats, labels: Labels) -> float:
    """What to divide logits by for the least log loss, to within 2 %.

    A few examples that are all right would make it endlessly sure, so that the truth is smoothed as if there were two
    more of which one is wrong; source: Platt 1999, "Probabilistic Outputs for Support Vector Machines".
    """
    doubt = 1 / (len(labels) + 2)
    true = np.full(logits.shape, doubt / max(1, logits.shape[1] - 1), np.float32)
    true[np.arange(len(labels)), labels] = 1 - doubt
    tried = np.geomspace(0.05, 20, 301)
    losses = [-(true * np.log(np.maximum(softmax(logits / value), 1e-12))).sum() for value in tried]
    return float(tried[int(np.argmin(losses))])


def _min_similarity(examples: Examples) -> float:
    sums, labels = _sums(examples), examples.labels
    others = sums[labels] - examples.embeddings
    norms = np.maximum(np.linalg.norm(others, axis=1), 1e-6)
    similarities = examples.embeddings @ centroids(examples).T
    similarities[np.arange(len(labels)), labels] = (others * examples.embeddings).sum(axis=1) / norms
    low = float(np.quantile(similarities.max(axis=1), _RARE)) - _SIMILARITY_MARGIN
    return float(np.clip(low, *_SIMILARITY_BOUNDS))


def _min_confidence(confidences: Floats, labels: Labels) -> float:
    right = confidences.argmax(axis=1) == labels
    if confidences.shape[1] == 1 or not right.any():
        return 0.0
    return min(_MOST_CONFIDENCE, float(np.quantile(confidences.max(axis=1)[right], _RARE)))
