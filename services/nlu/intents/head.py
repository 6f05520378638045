"""The intent head: a linear classifier over embedding and n-grams, its confidence calibrated, in numpy alone."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.nlu.intents.features import Floats, Lexicon, char_hashes, word_hashes

RANKED = 5
"""At most this many intents are named."""

Embedding: TypeAlias = "Sequence[float] | array[float] | NDArray[np.float32]"


@dataclass(frozen=True, slots=True)
class RankedIntent:
    """An intent, and the calibrated probability that it is meant."""

    name: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the head makes of a text."""

    intents: tuple[RankedIntent, ...]
    """By falling confidence, at most `RANKED`."""

    out_of_scope: bool
    """True: it is none of them."""


@dataclass(frozen=True, slots=True)
class LexicalPart:
    """The head's view of one kind of n-gram."""

    lexicon: Lexicon
    weights: NDArray[np.float16]
    """(n-grams, intents)"""

    def logits(self, hashes: list[int]) -> Floats:
        """What the n-grams add to each intent's logit."""
        places, values = self.lexicon.weigh(hashes)
        return np.asarray(values @ self.weights[places].astype(np.float32), np.float32)


@dataclass(frozen=True, slots=True)
class IntentHead:
    """A trained head. Weights and bias are divided by the temperature already: softmax gives the confidence."""

    version: str
    """Digest of what it was trained from."""

    names: tuple[str, ...]
    weights: Floats
    """(intents, width of the embedding)"""

    bias: Floats
    words: LexicalPart
    chars: LexicalPart
    centroids: Floats
    """(intents, width): mean embedding of each intent's examples, unit length."""

    min_similarity: float
    """A text less similar (cosine) than this to every centroid is out of scope."""

    min_confidence: float
    """A text whose best intent has less confidence than this is out of scope."""

    @property
    def width(self) -> int:
        """Width of the embeddings it was trained on."""
        return int(self.weights.shape[1])

    def logits(self, embedding: Embedding, text: str) -> Floats:
        """Log-odds of the intents, up to a constant."""
        vector = np.asarray(embedding, np.float32)
        dense = self.weights @ vector + self.bias
        return np.asarray(dense + self.words.logits(word_hashes(text)) + self.chars.logits(char_hashes(text)))

    def rank(self, embedding: Embedding, text: str) -> Ranking:
        """Ranks the intents for a text.

        Args:
            embedding: Of the text: unit length, as wide as `width`.
            text: The text.
        """
        confidences = softmax(self.logits(embedding, text))
        best = np.argsort(-confidences, kind="stable")[:RANKED]
        similarity = float((self.centroids @ np.asarray(embedding, np.float32)).max())
        return Ranking(
            tuple(RankedIntent(self.names[place], float(confidences[place])) for place in best),
            similarity < self.min_similarity or float(confidences[best[0]]) < self.min_confidence,
        )


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
