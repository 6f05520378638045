"""The name of an effect that a run has on the world: what asks for it, carries it out and approves it agree on it."""

import hashlib


def effect_key(step: int, index: int, tool: str, arguments_json: str) -> str:
    """Names one effect of a run: its step, the call's place in it, and a digest of tool and arguments."""
    return f"{step}.{index}.{_digest(tool, arguments_json)}"


def is_key_of(key: str, tool: str, arguments_json: str) -> bool:
    """Whether a key names this tool with these arguments, whatever the step."""
    return key.rpartition(".")[2] == _digest(tool, arguments_json)


def _digest(tool: str, arguments_json: str) -> str:
    return hashlib.sha256(f"{tool}\n{arguments_json}".encode()).hexdigest()[:16]
