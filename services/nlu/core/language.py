"""The language of a text, by py3langid."""

from py3langid.langid import MODEL_FILE, LanguageIdentifier

CERTAIN = 0.5
"""Least probability at which a language is named. Below it, short texts are guesses."""
_LIMIT = 400


class Languages:
    """Names languages. Reading its model takes a second: make it once, in a thread."""

    def __init__(self) -> None:
        """Reads the model that comes with the package."""
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def detect(self, text: str) -> str:
        """ISO 639-1 code by the first 400 code points. Empty: not certain, or a language without such a code."""
        if not any(map(str.isalpha, text[:_LIMIT])):
            return ""
        language, probability = self._identifier.classify(text[:_LIMIT])
        return str(language) if probability >= CERTAIN and len(language) == 2 else ""
