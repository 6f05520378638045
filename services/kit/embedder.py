"""Embeddings from Triton, as nlu and retrieval both need them: one timeout, and one error when there is no answer."""

from array import array
from collections.abc import Sequence

from services.kit.errors import DeadlineExceeded, ModelUnavailable
from services.kit.triton import Triton

_RETRY_AFTER_S = 1.0


class TritonEmbedder:
    """The embedder model of a Triton server."""

    def __init__(self, triton: Triton, timeout: float) -> None:
        """Waits at most `timeout` seconds for an answer; less when the caller has less left."""
        self._triton = triton
        self._timeout = timeout

    async def embed(self, texts: Sequence[str]) -> "list[array[float]]":
        """Unit vectors, one per text.

        Raises:
            ModelUnavailable: Triton does not answer, or not in time.
        """
        try:
            return await self._triton.embed(texts, self._timeout)
        except DeadlineExceeded:
            message = "the embedder did not answer in time"
            raise ModelUnavailable(message, retry_after=_RETRY_AFTER_S) from None
