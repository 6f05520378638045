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


@pytest.mark.parametrize(
    ("field", "value"),
    [("TIME_ZONE", "Mars/Base"), ("TIME_ZONE", "../UTC"), ("TIME_ZONE", ""), ("THREADS", "0"),
     ("EMBED_TIMEOUT_S", "-1"), ("HEADS_CACHED", "0")],
)  # fmt: skip
def test_value_out_of_its_range_names_the_field(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=field.lower()):
        load(Config, {f"MYRIAD_NLU_{field}": value}, "MYRIAD_NLU_")
