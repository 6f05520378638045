"""What a person does with a running stack, by the commands they type and by those that are printed to be pasted."""

import json
import re
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import CommandLine, Typed, on_a_terminal, pasted

pytestmark = pytest.mark.timeout(300)

RETURNS = "How many days do I have to return an item?"
WARM_UP_S = 30.0
"""Twice what a start may take on a machine of its own (BENCHMARKS.md): here other tests run beside it."""
SESSION_ID = r"[0-9a-z]{20,}"

DESK = """\
name: desk
persona: You are Desk, the helper of a library. Answer in one short sentence.
intents:
  - name: opening
    examples: [when do you open, opening hours please, are you open on Sunday]
  - name: loan
    examples: [how long can I keep a book, when must I bring a book back, loan time of books]
knowledge:
  collections: [desk-help]
"""
LOANS = "# Loans\n\nYou can keep a book for 17 days.\n"


@dataclass
class Running(Typed):
    """A stack that runs, asked in the ways that these tests do."""

    def ask(self, *arguments: str) -> dict[str, Any]:
        done = self.myriad("ask", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def agents(self) -> dict[str, int]:
        """Revision by name."""
        return {agent["name"]: agent["revision"] for agent in self.get("/v1/agents")["agents"]}

    def get(self, path: str) -> dict[str, Any]:
        """What Envoy answers to the user of the commands."""
        identity = {"x-myriad-tenant": "dev", "x-myriad-user": "dev", "x-myriad-roles": "admin"}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://{self.myriad.state().addresses['envoy']}{path}"
        with opener.open(urllib.request.Request(url, headers=identity), timeout=10) as reply:
            return dict(json.load(reply))

    def refused(self, *arguments: str) -> str:
        """What a command says that fails, in a sentence and not in a traceback."""
        done = self.myriad(*arguments)
        assert done.returncode == 1, done.stdout
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def stack(typed: Typed) -> Running:
    return Running(typed.myriad, typed.printed)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    folder = tmp_path / "desk"
    (folder / "knowledge").mkdir(parents=True)
    (folder / "agent.yaml").write_text(DESK)
    (folder / "knowledge" / "loans.md").write_text(LOANS)
    return folder


def after(printed: str, heading: str) -> str:
    """The lines to paste below a heading, or beside it."""
    (beside, below), *others = re.findall(rf"^{re.escape(heading)}:(?: (.+)\n|\n((?:  .+\n)+))", printed, re.MULTILINE)
    assert others == []
    return str(beside or below)


def test_an_answer_is_one_json_object_with_its_source(stack: Running) -> None:
    first = stack.ask(RETURNS, "--agent", "aura")
    assert {"answer", "citations", "tools", "session_id", "run_id", "usage", "events"} <= set(first)
    assert "30" in first["answer"]
    assert "returns" in {citation["document_id"] for citation in first["citations"]}
    assert first["tools"] == []
    assert first["usage"]["prompt_tokens"] > 0
    assert "completed" in first["events"][-1]

    second = stack.ask("Where is my order 1007?", "--session", first["session_id"])
    assert second["session_id"] == first["session_id"]
    assert second["run_id"] != first["run_id"]
    ((tool, outcome, arguments),) = ((call["tool"], call["outcome"], call["arguments"]) for call in second["tools"])
    assert (tool, outcome, arguments) == ("order_status", "OK", {"order_id": "1007"})


def test_an_answer_for_a_person_names_its_source_and_its_session(stack: Running) -> None:
    done = stack.myriad("ask", RETURNS)
    assert done.returncode == 0
    answer, *asides = done.stdout.splitlines()
    assert "30" in answer
    assert "[1] Return an item (aura-help/returns)" in asides
    assert re.fullmatch(f"session {SESSION_ID}", asides[-1])


def test_an_agent_that_is_not_there_is_refused_with_the_way_to_those_that_are(stack: Running) -> None:
    said = stack.refused("ask", "hello", "--agent", "nobody")
    assert "AGENT_NOT_FOUND" in said
    listed = pasted(said.partition("See which there are: ")[2])
    assert listed.returncode == 0
    assert "aura" in listed.stdout


def test_a_session_that_is_not_there_is_refused(stack: Running) -> None:
    assert "SESSION_NOT_FOUND" in stack.refused("ask", "hello", "--session", "none")


@pytest.mark.parametrize("text", ["", "x" * 9000], ids=["nothing", "too much"])
def test_a_question_of_a_wrong_length_is_refused_by_its_field(stack: Running, text: str) -> None:
    assert stack.refused("ask", text).startswith("input: must be at ")


def test_what_up_prints_to_ask_answers_when_pasted(stack: Running) -> None:
    done = pasted(after(stack.printed, "Ask a question"))
    assert done.returncode == 0, done.stderr
    assert "30" in done.stdout


def test_what_up_prints_to_try_over_http_streams_a_turn_when_pasted(stack: Running) -> None:
    done = pasted(after(stack.printed, "The same over HTTP, as server-sent events"))
    assert done.returncode == 0, done.stderr
    events = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert "started" in events[0]
    assert "completed" in events[-1]
    assert "1001" in events[-1]["completed"]["answer"]


@pytest.mark.parametrize("leave", ["\x04", "/quit\n"], ids=["Ctrl-D", "quit"])
def test_what_up_prints_to_talk_opens_a_conversation_on_a_terminal(stack: Running, leave: str) -> None:
    with on_a_terminal("bash", "-c", after(stack.printed, "Talk")) as terminal:
        terminal.read_until("you> ")
        terminal.type(f"{RETURNS}\n")
        terminal.read_until("aura> ")
        assert "30" in terminal.read_until("[1]")
        assert terminal.reads[-1] - terminal.reads[0] > 0.02  # it came as it was written, not all at its end
        terminal.read_until("you> ")
        terminal.type("Where is my order 1007?\n")
        terminal.read_until("← order_status: ok")
        terminal.read_until("Order 1007")
        terminal.read_until("you> ")
        terminal.type(leave)
        terminal.read_until("Go on with: ")
        again = terminal.read_until("\n").strip()
    assert terminal.process.returncode == 0
    assert run_count(stack, again.split()[-1]) == 2
    with on_a_terminal("bash", "-c", again) as terminal:
        terminal.read_until("you> ")
        terminal.type("\x04")
        assert again in terminal.read_until(again)
    assert terminal.process.returncode == 0


def run_count(stack: Running, session_id: str) -> int:
    return int(stack.get(f"/v1/sessions/{session_id}")["session"]["run_count"])


@pytest.mark.parametrize(
    ("order", "types", "told"),
    [("1007", ["y\n"], "← refund_order: ok"), ("1011", ["n\n", "too late\n"], "turned down: too late")],
    ids=["yes", "no"],
)
def test_a_refund_is_made_when_the_person_says_so_and_not_otherwise(
    stack: Running, order: str, types: list[str], told: str
) -> None:
    with on_a_terminal(*stack.myriad.command("chat")) as terminal:
        terminal.read_until("you> ")
        terminal.type(f"I want my money back for order {order}\n")
        question = terminal.read_until("y/n> ")
        assert f'? refund_order {{"order_id": "{order}"}}' in question
        assert "changes something" in question
        for typed in types:
            terminal.type(typed)
        terminal.read_until(told)
        terminal.read_until("you> ")
        terminal.type("/quit\n")
        session = terminal.read_until("\n").strip()
    assert terminal.process.returncode == 0, session


def test_a_question_that_is_left_is_answered_later_by_the_command_that_is_printed(stack: Running) -> None:
    done = stack.myriad("ask", "I want my money back for order 1012", "--json")
    assert done.returncode == 3, done.stderr
    waits = json.loads(done.stdout)
    assert (waits["state"], waits["waits_for"]["tool"]) == ("waiting", "refund_order")
    listed = json.loads(stack.myriad("runs", waits["session_id"], "--json").stdout)["runs"]
    assert [(run["run_id"], run["state"]) for run in listed] == [(waits["run_id"], "RUN_STATE_WAITING")]
    assert "APPROVAL_INVALID" in stack.refused("respond", waits["run_id"], "--token", "made-up", "--approve")

    said = stack.myriad("ask", "I want my money back for order 1014").stdout
    answered = pasted(said.partition("Answer it with: ")[2].splitlines()[0])
    assert answered.returncode == 0, answered.stderr
    assert "← refund_order: ok" in answered.stdout

    assert stack.myriad("cancel", waits["run_id"]).returncode == 0
    shown = stack.myriad("runs", waits["session_id"]).stdout
    assert re.match(rf"{re.escape(waits['run_id'])} +cancelled ", shown), shown


def test_talking_to_nobody_is_refused(stack: Running) -> None:
    assert "AGENT_NOT_FOUND" in stack.refused("chat", "--agent", "nobody")


def test_an_agent_of_ones_own_is_applied_once(stack: Running, desk: Path) -> None:
    applied = stack.myriad("agents", "apply", str(desk))
    assert applied.returncode == 0, applied.stderr
    assert "desk, revision 1: 0 tools, 1 documents" in applied.stdout
    assert re.search(r"^desk +revision 1\b", stack.myriad("agents", "list").stdout, re.MULTILINE)
    told = stack.ask("How long can I keep a book?", "--agent", "desk")
    assert "17" in told["answer"]
    assert [citation["document_id"] for citation in told["citations"]] == ["loans"]

    before = stack.agents()
    assert stack.myriad("agents", "apply", str(desk)).returncode == 0
    assert stack.agents() == before

    (desk / "agent.yaml").write_text(DESK.replace("library", "archive"))
    assert stack.myriad("agents", "apply", str(desk)).returncode == 0
    assert stack.agents() == {**before, "desk": before["desk"] + 1}

    refused = stack.refused("agents", "apply", str(desk / "agent.yaml"))  # which alone says nothing of documents
    assert "1 of desk would go: loans." in refused
    assert "--prune" in refused
    told = stack.ask("How long can I keep a book?", "--agent", "desk")
    assert [citation["document_id"] for citation in told["citations"]] == ["loans"]


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("name: loan", "name: [loan", ":7: expected ',' or ']'"),
        ("persona:", "personna:", ":2: personna: there is no such field"),
        ("name: loan", "name: Loan!", ":6: intents[1].name: "),
        ("[when do you open, opening hours please, are you open on Sunday]", "[hi]", ":5: intents[0].examples: "),
        ("[desk-help]", "desk-help", ":8: knowledge: repeated field collections "),
    ],
    ids=["broken", "unknown field", "wrong name", "too few", "wrong type"],
)
def test_a_wrong_agent_file_is_refused_by_line_and_field(
    stack: Running, desk: Path, right: str, wrong: str, said: str
) -> None:
    before = stack.agents()
    file = desk / "agent.yaml"
    assert DESK.count(right) == 1
    file.write_text(DESK.replace(right, wrong).replace("name: desk", "name: broken-desk"))
    assert f"{file}{said}" in stack.refused("agents", "apply", str(desk))
    assert stack.agents() == before


def test_an_agent_that_is_no_file_is_refused(stack: Running, desk: Path) -> None:
    shutil.rmtree(desk)
    assert f"{desk}: there is no such file" in stack.refused("agents", "apply", str(desk))


def test_a_work_folder_that_a_shell_would_take_apart_is_refused_at_once(tmp_path: Path) -> None:
    refused = CommandLine(tmp_path / "my work")("up", "--detach")
    assert refused.returncode == 1
    assert "--work" in refused.stdout
    assert "no spaces" in refused.stdout


def test_what_is_printed_to_see_and_to_stop_does_so_and_the_next_start_is_quick(stack: Running) -> None:
    """The last of them: it stops the stack, and starts it with all that it holds."""
    again = stack.myriad("up")
    seen = pasted(after(again.stdout, "See it"))
    assert seen.returncode == 0
    assert "orchestrator" in seen.stdout
    before, agents = stack.myriad.state(), stack.agents()
    assert pasted(after(again.stdout, "Stop it")).returncode == 0
    assert before.processes() == []
    assert stack.myriad.status()["state"] == "stopped"
    assert after(again.stdout, "Stop it").strip() == after(stack.printed, "Stop it").strip()

    refused = stack.refused("ask", "hello")
    started = pasted(refused.partition("Start it")[2].partition(": ")[2].strip() + " --detach")
    assert started.returncode == 0, started.stdout + started.stderr
    (seconds,) = re.findall(r"Myriad is up after ([0-9.]+) s\.", started.stdout)
    assert float(seconds) <= WARM_UP_S
    assert "learning" not in started.stdout  # the example agent is still there
    assert stack.agents() == agents
