from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.kit.config import ConfigError, describe, load, secret, standard


@dataclass(frozen=True)
class Config:
    address: str = "127.0.0.1:1"
    count: int = 3
    seconds: float = 0.5
    on: bool = False
    folder: Path | None = None
    names: tuple[str, ...] = ()
    endpoints: Mapping[str, str] = field(default_factory=dict)
    url: str = secret("redis://default")


def test_an_empty_environment_gives_the_defaults():
    assert load(Config, {}, "MYRIAD_X_") == Config()


def test_every_type_is_read():
    environ = {
        "MYRIAD_X_ADDRESS": "host:2",
        "MYRIAD_X_COUNT": "7",
        "MYRIAD_X_SECONDS": "1.5",
        "MYRIAD_X_ON": "true",
        "MYRIAD_X_FOLDER": "/data",
        "MYRIAD_X_NAMES": "a, b",
        "MYRIAD_X_ENDPOINTS": "crm=http://h:1/?a=b, x=y",
        "OTHER": "ignored",
    }
    assert load(Config, environ, "MYRIAD_X_") == Config(
        "host:2", 7, 1.5, True, Path("/data"), ("a", "b"), {"crm": "http://h:1/?a=b", "x": "y"}
    )


def test_everything_wrong_is_told_at_once():
    environ = {"MYRIAD_X_COUNT": "many", "MYRIAD_X_ON": "maybe", "MYRIAD_X_ENDPOINTS": "crm", "MYRIAD_X_TYPO": "1"}
    with pytest.raises(ConfigError) as raised:
        load(Config, environ, "MYRIAD_X_")
    assert str(raised.value).splitlines() == [
        "MYRIAD_X_COUNT: must be int, is 'many'",
        "MYRIAD_X_ON: must be true or false, is 'maybe'",
        "MYRIAD_X_ENDPOINTS: must be name=value, is 'crm'",
        "MYRIAD_X_TYPO: no such setting",
    ]


def test_unknown_variables_pass_where_others_share_the_prefix():
    assert load(Config, {"MYRIAD_X_TYPO": "1"}, "MYRIAD_X_", strict=False) == Config()


def test_a_variable_with_a_name_of_its_own_is_read_as_that():
    @dataclass(frozen=True)
    class Telemetry:
        endpoint: str = standard("OTEL_EXPORTER_OTLP_ENDPOINT", "")

    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}
    assert load(Telemetry, environ, "MYRIAD_X_").endpoint == "http://collector:4317"


def test_a_secret_is_never_shown():
    shown = describe(Config(url="redis://:pa55word@host"))
    assert shown["url"] == "***"
    assert shown["count"] == "3"
