"""Writes docs/configuration.md from the dataclasses that read it: `python docs/render.py`, or `--check` to compare."""

import ast
import importlib
import sys
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from pathlib import Path

from services.kit.config import variable_of
from services.kit.topology import SERVICES

FILE = Path(__file__).resolve().parent / "configuration.md"
ROOT = FILE.parents[1]
INTRODUCTION = """# Configuration

Every variable a service reads. Each is a field of a frozen dataclass, which is where its meaning is written; a
variable that begins with a service's prefix and names no field stops the start. Times are seconds. Lists are separated
by commas, pairs are `name=value`. What a service was started with is the first line of its log, secrets masked.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION, section("Every process", "services.kit.app", "KitConfig", "MYRIAD_")]
    parts += [section(name, f"services.{name}.config", "Config", f"MYRIAD_{name.upper()}_") for name in SERVICES]
    return "\n".join(parts)


def section(title: str, module_name: str, class_name: str, prefix: str) -> str:
    """The variables of one dataclass."""
    module = importlib.import_module(module_name)
    told = docstrings(Path(str(module.__file__)), class_name)
    lines = [f"## {title}\n", "| variable | default | meaning |", "|---|---|---|"]
    for field in fields(getattr(module, class_name)):
        default = f"`{shown(field)}`" if shown(field) else ""
        lines.append(f"| `{variable_of(field, prefix)}` | {default} | {told[field.name]} |")
    return "\n".join(lines) + "\n"


def docstrings(file: Path, class_name: str) -> dict[str, str]:
    """Field name to the docstring that stands under it.

    Raises:
        KeyError: a field has none; raised where it is looked up.
    """
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    (body,) = (node.body for node in classes if node.name == class_name)
    found = {}
    for field, told in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(told, ast.Expr) and isinstance(told.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(told.value.value).split()).replace("|", "\\|")
    return found


def shown(field: "Field[object]") -> str:
    """A field's default as the environment would say it. Empty: nothing."""
    factory = field.default_factory
    value = field.default if factory is MISSING else factory()
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(f"{name}={each}" for name, each in value.items()) if hasattr(value, "items") else str(value)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if FILE.read_text() == render() else f"{FILE.relative_to(ROOT)} is not what the services read")
    FILE.write_text(render())
