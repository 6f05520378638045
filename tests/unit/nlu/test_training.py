import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from services.kit.errors import ModelUnavailable
from services.nlu import train
from services.nlu.intents.features import Lexicon
from services.nlu.training.agent_file import AgentFileError, read
from tests.support.nlu import AGENT_FILE

GREETINGS = "[hello there, good morning, hi to you, hello and good morning]"


@pytest.fixture
def agent_file(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(AGENT_FILE)
    return path


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("", "mapping"),
        ("- a\n- b", "mapping"),
        ("name: [", "line 1"),
        ("name: aura\npersona: x\ncolour: red", "colour"),
        ("name: Aura\npersona: x", "name"),
        ("name: aura\npersona: x", "intents"),
        ("name: aura\npersona: 2024-01-01", "persona"),
        (AGENT_FILE.replace(GREETINGS, "[hello]"), "intents[2].examples"),
        (AGENT_FILE.replace(GREETINGS, "[hi, hi]"), "intents[2].examples"),
        (AGENT_FILE.replace(GREETINGS, "[hi, '  ']"), "intents[2].examples"),
        (AGENT_FILE.replace("name: greeting", "name: order_status"), "intents: not unique: order_status"),
        (AGENT_FILE.replace("name: greeting", "name: Greeting!"), "intents[2].name"),
        (AGENT_FILE.replace("name: order_id", "name: date"), "entities[0].name"),
        (AGENT_FILE.replace("'\\b\\d{4}\\b'", "'(?=x)'"), "entities[0].patterns[0]"),
    ],
)  # fmt: skip
def test_wrong_agent_file_ends_with_2_and_names_file_and_field(
    content: str, field: str, agent_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent_file.write_text(content)
    assert train.main(["--agent-file", str(agent_file), "--tenant", "acme"]) == 2
    said = capsys.readouterr().err
    assert str(agent_file) in said
    assert field in said
    assert said.count("\n") == 1


def test_missing_and_binary_files_are_agent_file_errors(tmp_path: Path) -> None:
    with pytest.raises(AgentFileError, match="No such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AgentFileError, match="utf-8"):
        read(tmp_path / "binary.yaml")


def test_ngrams_that_no_example_has_count_for_nothing() -> None:
    lexicon = Lexicon(np.array([5, 10, 20], np.uint32), np.array([1, 2, 4], np.float32))
    places, weights = lexicon.weigh([10, 7, 11, 99, 1])
    assert (places.tolist(), weights.tolist()) == ([1], [1.0])
    places, weights = lexicon.weigh([7, 99])
    assert (len(places), len(weights)) == (0, 0)
    places, weights = lexicon.weigh([20, 5, 5])
    assert places.tolist() == [0, 2]
    assert weights[1] / weights[0] == pytest.approx(4 / (1 + math.log(2)))
    assert float(weights @ weights) == pytest.approx(1)


class Late:
    """A Triton that is there when it has been asked so often."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    async def check(self, _model: str, _timeout: float) -> None:
        self.left -= 1
        if self.left >= 0:
            raise ModelUnavailable("not yet")

    async def embed(self, texts: list[str], _timeout: float) -> list[str]:
        return texts


@pytest.mark.parametrize(("patience", "waits"), [("60", True), ("0", False)])
async def test_a_trainer_waits_for_triton_as_long_as_it_is_told_to(patience: str, waits: bool) -> None:
    told = ["--agent-file", "a", "--tenant", "acme", "--patience", patience]
    embedder = train._Patient(Late(asked=20), train._parser().parse_args(told))
    with nullcontext() if waits else pytest.raises(ModelUnavailable):
        assert await embedder.embed(["hello"]) == ["hello"]
