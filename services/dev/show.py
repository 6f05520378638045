"""Shows a run on a terminal while it happens."""

import contextlib
import json
import shlex
import unicodedata
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from myriad.common.v1 import common_pb2
from myriad.orchestrator.v1 import run_event_pb2
from services.dev.state import ROOT
from services.dev.transcript import Transcript, reason_of

WORK = ROOT / ".myriad"
"""The usual work folder: the one that make's verbs mean."""

_LONGEST = 200
_MAKE_VERBS = frozenset({"up", "down", "status", "chat"})


def typed(work: Path, verb: str, *arguments: str) -> str:
    """A command on the stack in `work`, as a person pastes it where this command was typed."""
    here = Path.cwd() == ROOT
    if here and work == WORK and not arguments and verb in _MAKE_VERBS:
        return f"make {verb}"
    program = Path(".venv", "bin", "myriad")
    options = [] if work == WORK else ["--work", str(work)]
    return shlex.join([str(program if here else ROOT / program), *options, verb, *arguments])


def printable(text: str) -> str:
    """Text without the control characters that a model or a tool may send to a terminal."""
    return "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter) != "Cc")


_QUESTIONS = MappingProxyType(
    {
        "SIDE_EFFECT": "It changes something each time it runs.",
        "OUTCOME_UNKNOWN": (
            "It was begun under an approval, and then what ran it was lost. It may have done its work, or not: nobody "
            "knows. To approve is to run it once more."
        ),
        "CLIENT_TOOL": "It is yours to run, and the answer goes on with its result.",
        "UNSPECIFIED": "It needs an answer.",
    }
)


def _used(usage: common_pb2.Usage) -> str:
    """What a run has used so far, and the money that is left if it is limited."""
    said = f"used so far: {usage.prompt_tokens + usage.completion_tokens} tokens, {usage.tool_calls} tool calls"
    left = usage.remaining
    limits = {
        "tokens": left.tokens if left.HasField("tokens") else None,
        "tool calls": left.tool_calls if left.HasField("tool_calls") else None,
        "of money": f"{left.cost_micros / 1e6:g}" if left.HasField("cost_micros") else None,
    }
    known = [f"{amount} {name}" for name, amount in limits.items() if amount is not None]
    return said + (f"; left: {', '.join(known)}" if known else "")


class LastingOutput:
    """Standard output that may go away: a closed terminal or pipe must not stop who writes to it."""

    def __init__(self, file: TextIO) -> None:
        """Writes to `file`."""
        self._file = file

    def __getattr__(self, name: str) -> Any:
        """All but writing is the file's own."""
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Writes, or does nothing."""
        with contextlib.suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes, or does nothing."""
        with contextlib.suppress(OSError):
            self._file.flush()


class Show:
    """Prints the answer as it comes, and beside it, dimmed, what the agent does for it."""

    def __init__(self, console: Console) -> None:
        """Prints to `console`."""
        self._console = console
        self._line_is_open = False

    def event(self, event: run_event_pb2.RunEvent) -> None:
        """Shows one event; `ended` shows the rest."""
        kind = event.WhichOneof("event")
        if kind == "text_delta":
            self._console.print(Text(printable(event.text_delta.text)), end="", soft_wrap=True)
            self._line_is_open = True
        elif kind == "tool_started":
            call = event.tool_started.call
            slow = ", in the background" if event.tool_started.background else ""
            self._aside(f"→ {call.tool}{slow} {call.arguments_json}")
        elif kind == "tool_finished":
            ended = event.tool_finished
            outcome = run_event_pb2.ToolOutcome.Name(ended.outcome).removeprefix("TOOL_OUTCOME_").lower()
            self._aside(f"← {ended.tool}: {outcome} {ended.reason} {ended.result_json}")
        elif kind == "degraded":
            self._aside(f"without {event.degraded.component}: {event.degraded.reason}", style="yellow")
        elif kind == "restarted":
            self._aside("begins again: what it said before does not count")
        elif kind == "queued" and event.queued.position:
            self._aside(f"waits: {event.queued.position} ahead of it")
        elif kind == "usage":
            self._aside(_used(event.usage))

    def question(self, asked: run_event_pb2.RunApprovalRequired) -> None:
        """Shows what somebody must answer, all of it: the arguments are what is approved."""
        self._close_line()
        call, said = asked.call, _QUESTIONS[reason_of(asked)]
        self._console.print(
            Text(f"? {call.tool} {printable(call.arguments_json)}"), style="bold yellow", soft_wrap=True
        )
        self._console.print(said, style="yellow", soft_wrap=True)

    def ended(self, transcript: Transcript) -> None:
        """Shows the sources, and what went wrong if something did."""
        self._close_line()
        seen: dict[tuple[str, str], str] = {}
        for citation in transcript.citations:
            seen.setdefault((citation.collection, citation.document_id), citation.title)
        for number, ((collection, document_id), title) in enumerate(seen.items(), start=1):
            self._aside(f"[{number}] {title or document_id} ({collection}/{document_id})")
        failure = transcript.failure()
        if failure and transcript.asked is None:
            self._console.print(Text(printable(failure)), style="yellow" if transcript.state == "cancelled" else "red")

    def _aside(self, text: str, *, style: str = "dim") -> None:
        self._close_line()
        text = printable(text).replace("\n", " ").strip()
        shown = text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
        self._console.print(Text(shown), style=style, soft_wrap=True)

    def _close_line(self) -> None:
        if self._line_is_open:
            self._console.print()
            self._line_is_open = False


def print_json(console: Console, value: dict[str, Any]) -> None:
    """Prints one JSON object for a program: no colours, no line breaks that are not in it."""
    console.out(json.dumps(value, indent=2, ensure_ascii=False), highlight=False)
