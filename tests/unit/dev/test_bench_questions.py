"""What the benchmarks ask of the example agent."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from services.dev import agentfile
from services.dev.bench import asking


def bench(tmp_path: Path, plays: str = "") -> tuple[Any, asking.Bench]:
    """The example agent, and a measurement that asks it."""
    agent = agentfile.read(asking._example(tmp_path / "example", plays)).agent
    return agent, asking.Bench(MagicMock(), MagicMock(), agent)


def test_a_script_stands_where_the_model_alone_sees_it(tmp_path: Path) -> None:
    agent, asked = bench(tmp_path, asking.script(tokens=3))
    assert agent.persona.splitlines()[-1] == '#sim {"tokens": 3}'
    assert not [text for text in asked.questions if "#sim" in text]


def test_the_model_alone_is_given_the_same_script() -> None:
    assert asking.body("hello", "#sim {}") == {
        "messages": [{"role": "system", "content": "#sim {}"}, {"role": "user", "content": "hello"}]
    }
    assert asking.body("hello") == {"messages": [{"role": "user", "content": "hello"}]}


def test_what_is_looked_up_needs_facts_and_is_of_a_usual_length(tmp_path: Path) -> None:
    agent, asked = bench(tmp_path)
    needless = {
        text for each in agent.intents if each.skip_knowledge or each.HasField("tool") for text in each.examples
    }
    assert len(asked.looked_up) > 50
    assert not needless.intersection(asked.looked_up)
    assert {len(text.split()) for text in asked.looked_up} == {8, 9, 10, 11, 12}
