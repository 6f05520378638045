"""Word and character n-grams of a text, by their hashes: what the classifier sees beside the embedding.

An embedding blurs the words that tell near intents apart ("card arrival" and "card delivery estimate"); these keep
them. Weights are tf-idf with sublinear counts (1 + ln tf), scaled to unit length per kind of n-gram; source: Manning,
Raghavan and Schütze, "Introduction to Information Retrieval", 6.4. The hash is CRC-32 of the UTF-8 bytes, the same on
every machine and version.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

TEXT_LIMIT = 1000
"""Code points of a text that are looked at; the embedder, too, reads only the first few hundred words."""
_WORD = re.compile(r"\w+")
_NGRAM_BYTES = (3, 4, 5)

Floats = NDArray[np.float32]


def word_hashes(text: str) -> list[int]:
    """Hashes of the text's words and pairs of neighbouring words."""
    words = [word.encode("utf-8", "surrogatepass") for word in _WORD.findall(text[:TEXT_LIMIT].casefold())]
    return [crc32(word) for word in words] + [crc32(first + b" " + second) for first, second in pairwise(words)]


def char_hashes(text: str) -> list[int]:
    """Hashes of the byte n-grams within each word, its borders marked by spaces."""
    found = []
    for word in _WORD.findall(text[:TEXT_LIMIT].casefold()):
        padded = b" " + word.encode("utf-8", "surrogatepass") + b" "
        for size in _NGRAM_BYTES:
            found += [crc32(padded[at : at + size]) for at in range(max(1, len(padded) - size + 1))]
    return found


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The n-grams of one kind that the training examples hold."""

    hashes: NDArray[np.uint32]
    """Sorted."""

    idf: Floats
    """How rare each is."""

    def weigh(self, hashes: list[int]) -> tuple[NDArray[np.intp], Floats]:
        """Places in the lexicon of those n-grams that are in it, and their weights: a vector of length 1, or empty."""
        ids, counts = np.unique(np.array(hashes, np.uint32), return_counts=True)
        places = np.searchsorted(self.hashes, ids)
        inside = places < len(self.hashes)
        places, ids, counts = places[inside], ids[inside], counts[inside]
        known = self.hashes[places] == ids
        places = places[known]
        weights = self.idf[places] * (1 + np.log(counts[known])).astype(np.float32)
        norm = float(np.sqrt(weights @ weights))
        return places, weights / np.float32(norm) if norm else weights
