import asyncio
import math
import re
from pathlib import Path

import numpy as np
import pytest

from services.nlu import train
from services.nlu.adapters.files import FileIntentModels
from services.nlu.adapters.inmemory import InMemoryEmbedder
from services.nlu.intents import artefact
from services.nlu.intents.features import Lexicon
from services.nlu.intents.head import softmax
from services.nlu.training import fit, report
from services.nlu.training.agent_file import AgentFileError, read
from tests.support.nlu import ANN

GOOD = """
name: aura
persona: You help customers.
intents:
  - name: order_status
    examples: [where is my order, track my parcel, has my order shipped, where is the parcel now]
    tool: {name: get_order, arguments: {order_id: order_id}}
  - name: return_order
    examples: [I want to return my order, send this back, return an item, how do I send an item back]
  - name: greeting
    examples: [hello there, good morning, hi to you, hello and good morning]
entities:
  - name: order_id
    patterns: ['\\b\\d{4}\\b']
tools:
  - name: get_order
    description: Looks an order up.
    side_effect: SIDE_EFFECT_READ
    builtin: {function: get_order}
"""


GREETINGS = "[hello there, good morning, hi to you, hello and good morning]"


@pytest.fixture(autouse=True)
def one_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_STRENGTHS", (10.0,))  # each of them costs as many fits as there are folds


@pytest.fixture
def agent_file(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(GOOD)
    return path


async def examples_of(path: Path) -> fit.Examples:
    agent = read(path)
    texts = [example for intent in agent.intents for example in intent.examples]
    labels = [place for place, intent in enumerate(agent.intents) for _ in intent.examples]
    embeddings = np.array(await InMemoryEmbedder().embed(texts), np.float32)
    names = tuple(intent.name for intent in agent.intents)
    return fit.Examples(texts, np.array(labels, np.intp), names, embeddings)


def options(path: Path, models: Path, *more: str):
    return train._parser().parse_args(
        ["--agent-file", str(path), "--tenant", "acme", "--models-dir", str(models), *more]
    )


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
        (GOOD.replace(GREETINGS, "[hello]"), "intents[2].examples"),
        (GOOD.replace(GREETINGS, "[hi, hi]"), "intents[2].examples"),
        (GOOD.replace(GREETINGS, "[hi, '  ']"), "intents[2].examples"),
        (GOOD.replace("name: greeting", "name: order_status"), "intents: not unique: order_status"),
        (GOOD.replace("name: greeting", "name: Greeting!"), "intents[2].name"),
        (GOOD.replace("name: order_id", "name: date"), "entities[0].name"),
        (GOOD.replace("'\\b\\d{4}\\b'", "'(?=x)'"), "entities[0].patterns[0]"),
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


async def test_trained_model_ranks_what_it_was_trained_on(agent_file: Path, tmp_path: Path) -> None:
    agent = read(agent_file)
    await train.train(agent, InMemoryEmbedder(), options(agent_file, tmp_path / "models"))
    models = FileIntentModels(tmp_path / "models", capacity=1)
    head = await models.load(ANN, "aura", artefact.digest(agent.intents, "embedder"))
    assert head is not None
    for intent in agent.intents:
        vectors = await InMemoryEmbedder().embed(intent.examples)
        for text, vector in zip(intent.examples, vectors, strict=True):
            assert head.rank(vector, text).intents[0].name == intent.name
    (vector,) = await InMemoryEmbedder().embed(["photosynthesis in plants"])
    assert head.rank(vector, "photosynthesis in plants").out_of_scope


async def test_trained_again_only_by_force(
    agent_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Counting(InMemoryEmbedder):
        calls = 0

        async def embed(self, texts):
            self.calls += 1
            return await super().embed(texts)

    agent, embedder = read(agent_file), Counting()
    await train.train(agent, embedder, options(agent_file, tmp_path / "models"))
    first = capsys.readouterr().out
    assert "accuracy" in first
    assert "expected calibration error" in first
    assert re.search(r"version [0-9a-f]{32}\n$", first)
    await train.train(agent, embedder, options(agent_file, tmp_path / "models"))
    assert "there already" in capsys.readouterr().out
    assert embedder.calls == 1
    await train.train(agent, embedder, options(agent_file, tmp_path / "models", "--force"))
    assert embedder.calls == 2


async def test_folder_that_cannot_be_written_is_said(agent_file: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "models").write_text("a file")

    async def run(agent, given):
        await train.train(agent, InMemoryEmbedder(), given)

    monkeypatch.setattr(train, "_run", run)
    arguments = ["--agent-file", str(agent_file), "--tenant", "acme", "--models-dir", str(tmp_path / "models")]
    assert await asyncio.to_thread(train.main, arguments) == 1
    assert "cannot be written" in capsys.readouterr().err


async def test_condensed_rows_make_the_same_model(agent_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = await examples_of(agent_file)
    condensed, _ = fit.fit(examples, "v")
    monkeypatch.setattr(fit, "_condensed", lambda features: (features, None))
    plain, _ = fit.fit(examples, "v")
    for text, vector in zip(examples.texts, examples.embeddings, strict=True):
        expected = softmax(plain.logits(vector, text))
        assert softmax(condensed.logits(vector, text)) == pytest.approx(expected, abs=0.02)


async def test_two_intents_and_one_intent_can_be_trained(agent_file: Path) -> None:
    examples = await examples_of(agent_file)
    for count in (1, 2):
        mine = examples.labels < count
        texts = [text for text, kept in zip(examples.texts, mine, strict=True) if kept]
        part = fit.Examples(texts, examples.labels[mine], examples.names[:count], examples.embeddings[mine])
        head, evaluation = fit.fit(part, "v")
        for text, label, vector in zip(texts, part.labels, part.embeddings, strict=True):
            assert head.rank(vector, text).intents[0].name == part.names[label]
        assert list(report.lines(head, evaluation, part))


async def test_head_survives_being_written_and_read(agent_file: Path) -> None:
    head, _ = fit.fit(await examples_of(agent_file), "v")
    again = artefact.load(artefact.dump(head))
    (vector,) = await InMemoryEmbedder().embed(["track my parcel"])
    assert again.rank(vector, "track my parcel") == head.rank(vector, "track my parcel")
    assert again.version == "v"


async def test_words_tell_intents_apart_that_embeddings_do_not() -> None:
    texts = ["alpha card", "alpha one", "beta card", "beta one"] * 3
    labels = np.array([0, 0, 1, 1] * 3, np.intp)
    same = np.full((len(texts), 4), 0.5, np.float32)
    head, evaluation = fit.fit(fit.Examples(texts, labels, ("a", "b"), same), "v")
    assert report.accuracy(evaluation, labels) == 1
    for text, name in (("alpha two", "a"), ("beta two", "b")):
        (best, _) = head.rank(same[0], text).intents
        assert best.name == name
        assert best.confidence > 0.7


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


async def test_temperature_divides_all_of_the_logits(agent_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = await examples_of(agent_file)
    few = np.array([True] * 6 + [False] * 2 + [True] * 4)  # intents of unequal size have a bias
    texts = [text for text, kept in zip(examples.texts, few, strict=True) if kept]
    unequal = fit.Examples(texts, examples.labels[few], examples.names, examples.embeddings[few])
    heads = []
    for temperature in (1.0, 4.0):
        monkeypatch.setattr(fit, "_temperature", lambda logits, labels, value=temperature: value)
        heads.append(fit.fit(unequal, "v")[0])
    plain, cooler = (head.logits(examples.embeddings[0], "nothing known") for head in heads)
    assert cooler * 4 == pytest.approx(plain, abs=0.01)
    assert np.abs(heads[0].bias).max() > 0.01


async def test_strength_with_the_best_accuracy_is_chosen(agent_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = await examples_of(agent_file)
    real = fit._weights

    def useless_but_for_30(features, labels, intents, strength):
        weights, bias = real(features, labels, intents, strength)
        return (weights, bias) if strength == 30 else (-weights, -bias)

    monkeypatch.setattr(fit, "_weights", useless_but_for_30)
    monkeypatch.setattr(fit, "_STRENGTHS", (10.0, 30.0, 100.0))
    _, evaluation = fit.fit(examples, "v")
    assert evaluation.strength == 30.0


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidences = np.array([[0.9, 0.1]] * 10, np.float32)
    assert report.calibration_error(confidences, np.array([0] * 9 + [1])) == pytest.approx(0, abs=1e-6)
    assert report.calibration_error(confidences, np.array([1] * 10)) == pytest.approx(0.9, abs=1e-6)


def test_report_names_examples_that_two_intents_claim() -> None:
    examples = fit.Examples(["Hello", "hello ", "bye"], np.array([0, 1, 1]), ("a", "b"), np.eye(3, dtype=np.float32))
    assert report.shared(examples) == ["hello"]
