import pytest

from services.kit.config import ConfigError, describe, load
from services.memory.config import Config


def test_a_wrong_number_is_named() -> None:
    with pytest.raises(ConfigError, match="MYRIAD_MEMORY_HISTORY_CAP"):
        load(Config, {"MYRIAD_MEMORY_HISTORY_CAP": "many"}, "MYRIAD_MEMORY_")


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="MYRIAD_MEMORY_REDIS_URI"):
        load(Config, {"MYRIAD_MEMORY_REDIS_URI": "redis://x:1"}, "MYRIAD_MEMORY_")


def test_the_defaults_are_the_contracts() -> None:
    config = load(Config, {}, "MYRIAD_MEMORY_")
    assert (config.session_ttl, config.log_ttl) == (30 * 86_400, 86_400)
    assert (config.history_cap, config.agent_revisions) == (500, 100)


def test_a_password_in_the_url_is_not_printed() -> None:
    config = load(Config, {"MYRIAD_MEMORY_REDIS_URL": "redis://:hunter2@x:1"}, "MYRIAD_MEMORY_")
    assert "hunter2" not in str(describe(config))
