"""Whether prompts are read faster because others began with the same words is the operator's to say."""

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.support.model_files import loaded


@pytest.mark.parametrize("reuses", [True, False])
def test_a_prompt_uses_what_is_known_of_past_ones_only_where_it_may(
    monkeypatch: pytest.MonkeyPatch, reuses: bool
) -> None:
    constraint: Any = ModuleType("constraint")  # the real one needs llama.cpp
    constraint.grammar, constraint.Unsupported = lambda *_: "", ValueError
    monkeypatch.setitem(sys.modules, "constraint", constraint)
    chat = loaded(monkeypatch, "llm", "chat")
    raw = json.dumps({"messages": [{"role": "user", "content": "hi"}], "cache_prompt": True}).encode()
    assert json.loads(chat.read(raw, 1, reuses=reuses).body)["cache_prompt"] is reuses
