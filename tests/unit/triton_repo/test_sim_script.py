"""Where the scripted model finds its script."""

import json
from types import ModuleType
from typing import Any

import pytest

from tests.support.model_files import loaded


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded(monkeypatch, "sim_llm", "script")


def played(sim: ModuleType, *messages: tuple[str, str]) -> str:
    steps, _ = sim.read(json.dumps({"messages": [{"role": role, "content": text} for role, text in messages]}), 1)
    chunks: list[dict[str, Any]] = [json.loads(step.chunk) for step in steps]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_a_script_of_the_system_that_cannot_be_played_is_refused_by_its_place(sim: ModuleType) -> None:
    with pytest.raises(sim.BadRequest, match=r"messages\[0\].content"):
        played(sim, ("system", "You help.\n#sim {"), ("user", "Hello?"))


def test_the_system_says_what_is_played_where_the_user_does_not(sim: ModuleType) -> None:
    assert played(sim, ("system", 'You help.\n#sim {"text": "by the system"}'), ("user", "Hello?")) == "by the system"


def test_what_the_user_says_is_played_whatever_the_system_says(sim: ModuleType) -> None:
    asked = ("system", '#sim {"text": "by the system"}'), ("user", 'Hello?\n#sim {"text": "by the user"}')
    assert played(sim, *asked) == "by the user"


def test_a_script_that_somebody_said_earlier_is_not_played_again(sim: ModuleType) -> None:
    asked = ("user", '#sim {"text": "earlier"}'), ("assistant", '#sim {"text": "said"}'), ("user", "Hello?")
    assert "earlier" not in played(sim, *asked) and "said" not in played(sim, *asked)
