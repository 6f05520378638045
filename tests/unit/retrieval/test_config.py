import pytest

from services.kit.config import ConfigError, describe, load
from services.retrieval.config import Config

PREFIX = "MYRIAD_RETRIEVAL_"


@pytest.mark.parametrize("name", ["EMBED_BATCH", "MILVUS_TIMEOUT", "DIMENSION", "COLLECTION_TTL"])
def test_a_wrong_number_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=PREFIX + name):
        load(Config, {PREFIX + name: "many"}, PREFIX)


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="MILVUS_URL"):
        load(Config, {PREFIX + "MILVUS_URL": "http://x:1"}, PREFIX)


def test_the_defaults_are_for_one_machine() -> None:
    config = load(Config, {}, PREFIX)
    assert (config.triton_address, config.milvus_uri) == ("127.0.0.1:8001", "http://127.0.0.1:19530")
    assert (config.dimension, config.embed_batch, config.collections_per_tenant) == (384, 32, 1000)


def test_the_token_is_not_printed() -> None:
    config = load(Config, {PREFIX + "MILVUS_TOKEN": "root:hunter2"}, PREFIX)
    assert "hunter2" not in str(describe(config))
