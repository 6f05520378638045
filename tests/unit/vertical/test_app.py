import dataclasses

import pytest

from services.kit.app import KitConfig
from services.kit.clients import INPROC
from services.kit.config import ConfigError
from services.kit.topology import SERVICES
from services.vertical.app import Configs, described, load_configs


def test_every_service_has_a_configuration():
    assert {field.name for field in dataclasses.fields(Configs)} == set(SERVICES)


def test_what_is_shown_at_the_start_holds_every_setting_of_every_service_under_its_name():
    configs = load_configs({})
    expected = {field.name for field in dataclasses.fields(KitConfig)}
    for service in dataclasses.fields(Configs):
        config = getattr(configs, service.name)
        expected |= {f"{service.name}_{field.name}" for field in dataclasses.fields(config)}
    shown = described(KitConfig(), configs)
    assert shown.keys() == expected
    assert "memory_session_ttl" in shown


def test_what_is_shown_at_the_start_masks_secrets():
    environ = {"MYRIAD_MEMORY_REDIS_URL": "redis://:hush@10.0.0.1:6379", "MYRIAD_MEMORY_HISTORY_CAP": "77"}
    shown = described(KitConfig(drain_s=3.0), load_configs(environ))
    assert (shown["memory_redis_url"], shown["memory_history_cap"], shown["drain_s"]) == ("***", "77", "3.0")
    assert not any("hush" in value for value in shown.values())


def test_the_services_meet_within_the_process_whatever_the_environment_says():
    shown = described(KitConfig(), load_configs({"MYRIAD_ORCHESTRATOR_MEMORY_ADDRESS": "10.0.0.1:7104"}))
    assert shown["orchestrator_memory_address"] == INPROC


def test_a_setting_that_no_service_has_is_refused():
    with pytest.raises(ConfigError, match="MYRIAD_NLU_TYPO"):
        load_configs({"MYRIAD_NLU_TYPO": "1"})
