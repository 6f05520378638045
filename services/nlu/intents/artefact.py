"""A head as bytes, and the digest that names it.

The format is numpy's `.npz` without pickled objects, so a file from elsewhere can be wrong but cannot run code.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from services.nlu.agent import Intent
from services.nlu.intents.features import Lexicon
from services.nlu.intents.head import IntentHead, LexicalPart

ALGORITHM = "linear-1"
"""Changes with whatever makes the same examples another head, so that an old artefact is not taken for a new one."""
_DIGITS = 32
# What zipfile, zlib and numpy raise for files that are cut short or have bytes changed.
_UNREADABLE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    EOFError,
    OSError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


class BadArtefact(Exception):
    """The bytes are no head."""


def digest(intents: Iterable[Intent], embedder: str) -> str:
    """Names the head that these intents make: 32 hexadecimal digits.

    Neither the order of the intents nor that of their examples counts, nor the tools they are bound to.
    """
    examples = {intent.name: sorted(set(intent.examples)) for intent in intents}
    told = json.dumps([ALGORITHM, embedder, examples], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:_DIGITS]


def dump(head: IntentHead) -> bytes:
    """The head as bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        algorithm=np.array(ALGORITHM),
        version=np.array(head.version),
        names=np.array(head.names, dtype=np.str_),
        weights=head.weights,
        bias=head.bias,
        word_hashes=head.words.lexicon.hashes,
        word_idf=head.words.lexicon.idf,
        word_weights=head.words.weights,
        char_hashes=head.chars.lexicon.hashes,
        char_idf=head.chars.lexicon.idf,
        char_weights=head.chars.weights,
        centroids=head.centroids,
        thresholds=np.array([head.min_similarity, head.min_confidence], np.float32),
    )
    return buffer.getvalue()


def load(content: bytes) -> IntentHead:
    """The head that `dump` made bytes of.

    Raises:
        BadArtefact: the bytes are cut short, of another algorithm, or of shapes that do not fit each other.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            if str(arrays["algorithm"]) != ALGORITHM:
                raise BadArtefact(f"made by algorithm {arrays['algorithm']}, not {ALGORITHM}")
            head = _head(arrays)
    except _UNREADABLE as error:
        raise BadArtefact(f"cannot be read: {type(error).__name__}") from error
    _check(head)
    return head


def _head(arrays: Any) -> IntentHead:
    similarity, confidence = (float(value) for value in arrays["thresholds"])
    return IntentHead(
        version=str(arrays["version"]),
        names=tuple(str(name) for name in arrays["names"]),
        weights=arrays["weights"],
        bias=arrays["bias"],
        words=LexicalPart(Lexicon(arrays["word_hashes"], arrays["word_idf"]), arrays["word_weights"]),
        chars=LexicalPart(Lexicon(arrays["char_hashes"], arrays["char_idf"]), arrays["char_weights"]),
        centroids=arrays["centroids"],
        min_similarity=similarity,
        min_confidence=confidence,
    )


def _check(head: IntentHead) -> None:
    intents = len(head.names)
    fits = head.weights.ndim == 2 and head.weights.shape[0] == intents > 0
    fits = fits and head.bias.shape == (intents,) and head.centroids.shape == head.weights.shape
    for part in (head.words, head.chars):
        count = len(part.lexicon.hashes)
        fits = fits and part.lexicon.idf.shape == (count,) and part.weights.shape == (count, intents)
        fits = fits and part.lexicon.hashes.dtype == np.uint32
    if not fits:
        raise BadArtefact("its parts do not fit each other")
