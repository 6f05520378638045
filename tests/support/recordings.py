"""Histories of runs, kept in the repository: what a release wrote, and the commands with which it went on from there.

`python -m tests.support.recordings FILE` plays the run below and writes its history, as the release does that is here.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

from services.orchestrator.adapters.inmemory_services import InMemoryModel
from services.orchestrator.adapters.inmemory_sessions import KeptRun
from services.orchestrator.domain.agent import Agent, Intent, Knowledge, Role, Tool, ToolCall
from services.orchestrator.domain.turn import Chunk, Citation, Complexity, Entity, Understanding
from tests.support.events import counted
from tests.support.orchestrator import ALICE, SESSION, act_as, bench

QUESTION = "Where is order 1007, and what does it cost to send it back?"
MEANING = Understanding(
    (("order_status", 0.9), ("returns", 0.1)),
    False,
    (Entity("order", "1007", 15, 19, "1007"),),
    Complexity(0.4, 0.5, 0.3),
    "en",
    (0.6, 0.8),
)
FACT = Citation("help", "returns", "Returns", "returns#0", 0, 27, "Sending it back costs 4 EUR.", 0.7)
FIRST = ["Let me ", "look. ", Chunk(tool_calls=(ToolCall("", "find", '{"order": 1007}'), ToolCall("", "price", "{}")))]
SECOND = ["It is on ", "its way."]
ANSWER = "Let me look. It is on its way."
AGENT = Agent(
    "aura",
    3,
    "You help.",
    intents={"order_status": Intent("order_status")},
    knowledge=Knowledge(("help",), 4, 0.0),
    tools={name: Tool(name, f"Does {name}.", {"type": "object"}, 5.0) for name in ("find", "price")},
    model_chooses_tools=True,
)


class Model(InMemoryModel):
    """Asks for two tools first, and answers when it has their results."""

    async def chat(self, model, messages, *rest):
        self.scripts = [SECOND if messages[-1].role is Role.TOOL else FIRST]
        async for chunk in super().chat(model, messages, *rest):
            yield chunk


def prepared(b):
    """The services as the run meets them, each of which notes what it is asked: the list of commands."""
    commands = []

    def noted(port, name, command):
        method = getattr(port, name)

        def call(*arguments):
            commands.append(command(*arguments))
            return method(*arguments)

        setattr(port, name, call)

    b.agent = AGENT
    b.agent_is()
    b.model, b.nlu.understanding, b.retrieval.facts = Model(), MEANING, (FACT,)
    b.tools.results = {"find": ('{"where": "on its way"}', False), "price": ('{"eur": 4}', False)}
    noted(b.nlu, "analyze", lambda agent, text: ["understand", text])
    noted(b.retrieval, "search", lambda knowledge, text, embedding: ["search", text])
    noted(b.tools, "execute", lambda agent, call, run_id, key, *_: ["run", call.tool, call.arguments_json, run_id, key])
    noted(b.model, "chat", lambda model, messages, *_: ["ask", *([each.role, each.content] for each in messages)])
    return commands


async def states():
    """What the store holds of a run when it is accepted, and after each write but the last: record, checkpoint, log."""
    async with bench() as b:
        prepared(b)
        b.runs, found, append = b.another(), [], b.store.append

        async def kept(principal, turn, *rest):
            stop = await append(principal, turn, *rest)
            run = b.store._run(principal, turn.run_id)
            if not found:
                found.append((run.record, b"", ()))
            found.append((run.record, run.checkpoint, tuple(run.entries)))
            return stop

        b.store.append = kept
        await b.turn(QUESTION)
        await b.runs.close()
    return list(dict.fromkeys(found))


async def resumed(record, checkpoint, entries):
    """What a process does that finds a run so: its commands, and the answer."""
    async with bench() as b:
        commands = prepared(b)
        b.runs = b.another()
        session = b.store._session(ALICE, SESSION)
        session.current = KeptRun(1, ("", b""), record, checkpoint=checkpoint, entries=list(entries))
        session.runs.append(session.current)
        act_as(ALICE)
        await b.runs.resume(ALICE, SESSION)
        events = await asyncio.wait_for(b.events(f"{SESSION}.1"), 5)
        await b.runs.close()
    assert counted(events) == events[-1].completed.answer, events[-1]
    return json.loads(json.dumps(commands)), events[-1].completed.answer


def read(file):
    """The states of a history, each with what followed: `(record, checkpoint, entries), (commands, answer)`."""
    for state in json.loads(file.read_text()):
        kept = (
            *map(base64.b64decode, (state["record"], state["checkpoint"])),
            tuple(map(base64.b64decode, state["log"])),
        )
        yield kept, (state["commands"], state["answer"])


async def history():
    """The history of the run, as this release writes it."""
    found = []
    for record, checkpoint, entries in await states():
        commands, answer = await resumed(record, checkpoint, entries)
        text = [base64.b64encode(data).decode() for data in (record, checkpoint, *entries)]
        state = {"record": text[0], "checkpoint": text[1], "log": text[2:]}
        found.append({**state, "commands": commands, "answer": answer})
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(history()), indent=1) + "\n")
