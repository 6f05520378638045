"""Configuration: the environment, read once, into one frozen dataclass per service.

A field's variable is its prefix and its name in capitals: field `memory_address` of the orchestrator is
`MYRIAD_ORCHESTRATOR_MEMORY_ADDRESS`. Each field's docstring stands under it, and docs/configuration.md lists them all.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_USER_OF_URL = re.compile(r"://[^/@\s]+@")


class ConfigError(Exception):
    """The environment does not make a configuration. The message lists everything that is wrong, a line each."""


def secret(default: Any) -> Any:
    """A field whose value is never shown."""
    return dataclasses.field(default=default, metadata={"secret": True})


def standard(variable: str, default: Any) -> Any:
    """A field read from a variable that has its name from elsewhere, as OpenTelemetry's have."""
    return dataclasses.field(default=default, metadata={"variable": variable})


def variable_of(field: "dataclasses.Field[Any]", prefix: str) -> str:
    """Name of the variable a field is read from."""
    return str(field.metadata.get("variable", prefix + field.name.upper()))


def load(cls: type[T], environ: Mapping[str, str], prefix: str, *, strict: bool = True) -> T:
    """Reads `cls` from the environment.

    Args:
        cls: A frozen dataclass with fields of type str, int, float, bool, Path, tuple[str, ...] (comma-separated) or
            Mapping[str, str] (`name=value`, comma-separated), or one of these `| None`; every field has a default.
        environ: The environment.
        prefix: What the variables begin with: `MYRIAD_NLU_`.
        strict: Whether a variable with the prefix that names no field is an error.

    Raises:
        ConfigError: a value cannot be read as its type, or a variable with the prefix names no field.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = variable_of(field, prefix)
        if name in environ:
            try:
                values[field.name] = _parse(hints[field.name], environ[name])
            except ValueError as error:
                wrong.append(f"{name}: {error}")
    known = {prefix + name.upper() for name in hints}
    unknown = [name for name in sorted(environ) if name.startswith(prefix) and name not in known]
    wrong += [f"{name}: no such setting" for name in unknown if strict]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return cls(**values)


def describe(config: Any) -> dict[str, str]:
    """Field name to value, secrets and the user of a URL masked: what a service prints when it starts."""
    return {
        field.name: "***"
        if field.metadata.get("secret") and getattr(config, field.name)
        else _USER_OF_URL.sub("://***@", str(getattr(config, field.name)))
        for field in dataclasses.fields(config)
    }


def _parse(hint: Any, text: str) -> Any:
    if isinstance(hint, types.UnionType):
        if text == "":
            return None
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    if typing.get_origin(hint) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if typing.get_origin(hint) is not None:
        return dict(_pair(part) for part in text.split(",") if part.strip())
    if hint is bool:
        if text.lower() not in {"true", "false", "1", "0"}:
            raise ValueError(f"must be true or false, is {text!r}")
        return text.lower() in {"true", "1"}
    parse: Callable[[str], Any] = {str: str, int: int, float: float, Path: Path}[hint]
    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"must be {hint.__name__}, is {text!r}") from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"must be name=value, is {text.strip()!r}")
    return name.strip(), value.strip()
