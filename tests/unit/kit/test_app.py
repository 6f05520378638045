import pytest

from services.kit.app import Kit, KitConfig, open_kit
from services.kit.breaker import Circuit
from services.kit.errors import ModelUnavailable
from services.kit.telemetry import open_telemetry


@pytest.mark.parametrize("limit", ["max_calls", "max_streams", "breaker_failures"])
def test_a_limit_that_lets_nothing_through_is_refused(limit):
    with pytest.raises(ValueError, match=f"MYRIAD_{limit.upper()} must be at least 1, is 0"):
        open_kit(KitConfig(auth="insecure-dev", **{limit: 0}), "nlu")


def test_a_mesh_without_any_proof_is_refused():
    with pytest.raises(ValueError, match="token or certificates"):
        Kit(open_telemetry("test", "", 0.0), "")


def test_the_services_of_a_process_share_what_they_know_of_a_backend():
    kit = open_kit(KitConfig(auth="insecure-dev", breaker_failures=1), "vertical")
    circuit = Circuit("model", ModelUnavailable, "it rests", (ModelUnavailable,))
    with pytest.raises(ModelUnavailable), kit.breakers(circuit).of("llm").attempt():
        raise ModelUnavailable("gone")
    with pytest.raises(ModelUnavailable, match="it rests"), kit.breakers(circuit).of("llm").attempt():
        raise AssertionError("reached")
    state = kit.telemetry.metrics.get_sample_value("myriad_circuit_state", {"kind": "model", "name": "llm"})
    assert state == 2
