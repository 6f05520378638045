from pathlib import Path

import pytest

from services.kit.config import ConfigError, load
from services.nlu.config import Config


def test_every_field_has_a_default() -> None:
    assert load(Config, {}, "MYRIAD_NLU_") == Config()


def test_fields_are_read_from_the_environment() -> None:
    environ = {"MYRIAD_NLU_MODELS_DIR": "models", "MYRIAD_NLU_THREADS": "4", "MYRIAD_NLU_TIME_ZONE": "Europe/Berlin"}
    config = load(Config, environ, "MYRIAD_NLU_")
    assert (config.models_dir, config.threads, config.time_zone) == (Path("models"), 4, "Europe/Berlin")


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="MYRIAD_NLU_THREADS"):
        load(Config, {"MYRIAD_NLU_THREADS": "many"}, "MYRIAD_NLU_")
