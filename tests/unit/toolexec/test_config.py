import pytest

from services.kit.config import ConfigError, describe, load
from services.toolexec.adapters.inmemory import InMemoryHttpCaller
from services.toolexec.config import Config
from services.toolexec.core.http_tool import HttpTools

PREFIX = "MYRIAD_TOOLEXEC_"


def test_endpoints_are_read_by_name():
    environ = {PREFIX + "ENDPOINTS": "crm=http://127.0.0.1:7180, mail=https://mail.internal/v1"}
    assert load(Config, environ, PREFIX).endpoints == {
        "crm": "http://127.0.0.1:7180",
        "mail": "https://mail.internal/v1",
    }


def test_nothing_set_means_no_endpoints():
    config = load(Config, {}, PREFIX)
    assert config.endpoints == {}
    assert config.memory_address == "127.0.0.1:7104"
    assert config.redis_url == "redis://127.0.0.1:6379"


@pytest.mark.parametrize("name", ["ENDPOINTS", "MAX_RUNNING", "CONNECT_TIMEOUT_S"])
def test_nonsense_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        load(Config, {PREFIX + name: "nonsense"}, PREFIX)


@pytest.mark.parametrize("url", ["127.0.0.1:7180", "ftp://crm", "http://user:hunter2@crm", "http://crm/?a=1"])
def test_an_endpoint_that_is_no_url_stops_the_start(url):
    with pytest.raises(ValueError, match="the endpoint crm cannot be used") as caught:
        HttpTools(InMemoryHttpCaller({}), {"crm": url}, frozenset({80, 443}))
    assert "hunter2" not in str(caught.value)


def test_what_callbacks_are_signed_with_is_read_and_never_shown():
    environ = {
        PREFIX + "CALLBACK_KEYS": "acme=whsec_AA== whsec_BB==, other=whsec_CC==",
        PREFIX + "CALLBACK_SECRETS": "one,two",
    }
    config = load(Config, environ, PREFIX)
    assert config.callback_keys == {"acme": "whsec_AA== whsec_BB==", "other": "whsec_CC=="}
    assert config.callback_secrets == ("one", "two")
    shown = describe(config)
    assert (shown["callback_keys"], shown["callback_secrets"]) == ("***", "***")
