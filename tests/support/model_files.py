"""The Python of Triton's models, which is in no package: `triton_repo/<model>/1/<name>.py`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_MODELS = Path(__file__).parents[2] / "triton_repo"


def loaded(monkeypatch: pytest.MonkeyPatch, model: str, name: str) -> ModuleType:
    """A file of a model, as the model imports it."""
    folder = _MODELS / model / "1"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location(f"{model}_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, made)
    spec.loader.exec_module(made)
    return made
