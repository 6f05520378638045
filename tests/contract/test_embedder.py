"""One list of behaviours for the embedders of nlu and retrieval: bags of words, and the model in a running Triton."""

import math
from collections.abc import AsyncIterator, Sequence

import pytest

from services.kit.clients import Network
from services.kit.embedder import TritonEmbedder
from services.kit.errors import ModelUnavailable
from services.kit.triton import Triton
from services.nlu.adapters.inmemory import InMemoryEmbedder as NluInMemoryEmbedder
from services.retrieval.adapters.inmemory import InMemoryEmbedder as RetrievalInMemoryEmbedder
from tests.support.triton import free_port_pair

FAKES = {"nlu's fake": NluInMemoryEmbedder, "retrieval's fake": RetrievalInMemoryEmbedder}
Embedder = NluInMemoryEmbedder | RetrievalInMemoryEmbedder | TritonEmbedder


@pytest.fixture(scope="module")
async def triton(triton_address: str) -> AsyncIterator[Triton]:
    network = Network(None)
    yield Triton(network.client("triton", triton_address))
    await network.close()


@pytest.fixture(params=["nlu's fake", "retrieval's fake", "triton"])
def embedder(request: pytest.FixtureRequest) -> Embedder:
    if request.param == "triton":
        return TritonEmbedder(request.getfixturevalue("triton"), timeout=10.0)
    return FAKES[request.param]()


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_no_texts_are_no_vectors(embedder) -> None:
    assert await embedder.embed([]) == []


async def test_vectors_are_of_unit_length_and_one_width(embedder) -> None:
    vectors = await embedder.embed(["hello", "where is my order 1001?", "Wo ist meine Bestellung?", "👍"])
    assert [len(vector) for vector in vectors] == [384] * 4
    assert all(math.sqrt(cosine(vector, vector)) == pytest.approx(1, abs=1e-3) for vector in vectors)


async def test_vectors_come_in_the_order_of_the_texts(embedder) -> None:
    texts = ["return my order", "good morning", "a much longer text about the weather of the coming week " * 8]
    together = await embedder.embed(texts)
    for text, vector in zip(texts, together, strict=True):
        (alone,) = await embedder.embed([text])
        assert cosine(alone, vector) > 0.98


async def test_same_text_is_the_same_vector(embedder) -> None:
    (first,), (second,) = await embedder.embed(["track my parcel"]), await embedder.embed(["track my parcel"])
    assert cosine(first, second) == pytest.approx(1, abs=1e-4)


async def test_like_texts_are_nearer_than_unlike_ones(embedder) -> None:
    asked, alike, unlike = await embedder.embed(
        ["I want to return my order", "how do I return an order", "the volcano erupted at night"]
    )
    assert cosine(asked, alike) > cosine(asked, unlike) + 0.2


@pytest.mark.parametrize("text", ["\u200b", "x" * 8000, "word " * 1600, "𐍈" * 2000, "\u202eabc", "a\tb"])
async def test_odd_and_long_texts_have_vectors(embedder, text: str) -> None:
    (vector,) = await embedder.embed([text])
    assert math.sqrt(cosine(vector, vector)) == pytest.approx(1, abs=1e-3)


async def test_unreachable_triton_is_model_unavailable_with_a_time_to_wait() -> None:
    network = Network(None)
    dead = TritonEmbedder(Triton(network.client("triton", f"127.0.0.1:{free_port_pair()}")), timeout=1.0)
    with pytest.raises(ModelUnavailable) as caught:
        await dead.embed(["hello"])
    assert caught.value.retry_after == 1.0
    await network.close()
