"""An agent's files: each mistake is named with its file, line and field."""

from pathlib import Path

import pytest

from services.dev import agentfile

GOOD = """\
name: helper
persona: You help.
intents:
  - name: greet
    examples: [hello, good morning]
tools:
  - name: clock
    description: Tells the time.
    side_effect: SIDE_EFFECT_READ
    builtin: {function: current_time}
limits: {timeout: 30s}
"""


def mistakes(path: Path) -> list[str]:
    with pytest.raises(agentfile.AgentFileError) as caught:
        agentfile.read(path)
    return str(caught.value).splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "agent.yaml"


@pytest.mark.parametrize(
    ("before", "after", "line", "says"),
    [
        ("name: helper", "name: Helper One", 1, "name: "),
        ("name: helper", "name: 3", 1, "name: must be a text"),
        ("persona: You help.", "personality: nice", 2, "personality: there is no such field"),
        ("persona: You help.", "name: again", 2, "name: is there twice"),
        ("[hello, good morning]", "[hello]", 5, "intents[0].examples: "),
        ("[hello, good morning]", "[hello, '']", 5, "intents[0].examples[1]: "),
        ("SIDE_EFFECT_READ", "MAYBE", 9, "tools[0].side_effect: Invalid enum value MAYBE"),
        ("builtin: {function", "plugin: {function", 10, "tools[0].plugin: there is no such field"),
        ("{timeout: 30s}", "{timeout: 30}", 11, "limits.timeout: "),
        ("{timeout: 30s}", "{timeout: 2026-01-01}", 11, "limits.timeout: "),
        ("{timeout: 30s}", "{timeout: 3000s}", 11, "limits.timeout: "),
        ("{timeout: 30s}", "{max_steps: -1}", 11, "limits"),
        ("{timeout: 30s}", "[", 12, ""),
        ("{timeout: 30s}", "*nowhere", 11, "undefined alias"),
        ("{timeout: 30s}", "!!python/name:os.system x", 11, "tag"),
    ],
)
def test_mistake_is_named_with_line_and_field(file: Path, before: str, after: str, line: int, says: str) -> None:
    file.write_text(GOOD.replace(before, after, 1))
    (only,) = mistakes(file)
    assert only.startswith(f"{file}:{line}: ")
    assert says in only


def test_every_broken_rule_is_named(file: Path) -> None:
    file.write_text(GOOD.replace("helper", "Helper One").replace("[hello, good morning]", "[hello]"))
    assert [line.split(": ")[1] for line in mistakes(file)] == ["name", "intents[0].examples"]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "null"])
def test_file_that_is_no_mapping_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    assert "must be a mapping" in mistakes(file)[0]


def test_file_that_is_not_text_is_refused(file: Path) -> None:
    file.write_bytes(b"name: \xff\xfe")
    assert mistakes(file) == [f"{file}: is not UTF-8 text (byte 6)"]


def test_endless_file_is_refused(file: Path) -> None:
    file.write_text("name: &a [*a]\n")
    assert len(mistakes(file)) == 1


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert mistakes(tmp_path) == [f"{tmp_path / 'agent.yaml'}: there is no such file"]


def test_folder_gives_agent_and_documents(tmp_path: Path, file: Path) -> None:
    file.write_text(GOOD + "knowledge: {collections: [help]}\n")
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "returns.md").write_text("# Returns\n\nThirty days.\n")
    (tmp_path / "knowledge" / "plain.md").write_text("No heading.\n")
    source = agentfile.read(tmp_path)
    assert source.agent.tools[0].builtin.function == "current_time"
    assert [(each.document_id, each.title) for each in source.documents] == [("plain", ""), ("returns", "Returns")]


def test_documents_without_a_collection_are_refused(tmp_path: Path, file: Path) -> None:
    file.write_text(GOOD)
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "returns.md").write_text("# Returns\n")
    assert "knowledge.collections" in mistakes(tmp_path)[0]


@pytest.mark.parametrize(("name", "content"), [("empty.md", ""), ("bad name.md", "text"), ("bell.md", "a\x07b")])
def test_document_that_cannot_be_one_is_named(tmp_path: Path, file: Path, name: str, content: str) -> None:
    file.write_text(GOOD + "knowledge: {collections: [help]}\n")
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / name).write_text(content)
    assert mistakes(tmp_path)[0].startswith(str(tmp_path / "knowledge" / name))
