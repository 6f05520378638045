"""Fitting, calibrating and writing intent models, with scikit-learn."""

import asyncio
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from services.nlu import train
from services.nlu.adapters.files import FileIntentModels
from services.nlu.adapters.inmemory import InMemoryEmbedder
from services.nlu.intents import artefact
from services.nlu.intents.head import softmax
from services.nlu.training.agent_file import read
from tests.support.nlu import AGENT_FILE, ANN


@pytest.fixture(name="fit")
def fit_once_wanted() -> ModuleType:
    """Imported here, because scikit-learn takes seconds: whoever runs other tests does not wait for it."""
    from services.nlu.training import fit

    return fit


@pytest.fixture(name="report")
def report_once_wanted() -> ModuleType:
    """Imports what `fit` does."""
    from services.nlu.training import report

    return report


@pytest.fixture(autouse=True)
def one_strength(fit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_STRENGTHS", (10.0,))  # each of them costs as many fits as there are folds


@pytest.fixture
def agent_file(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(AGENT_FILE)
    return path


async def examples_of(fit: ModuleType, path: Path) -> Any:
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


async def test_condensed_rows_make_the_same_model(
    fit: ModuleType, agent_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = await examples_of(fit, agent_file)
    condensed, _ = fit.fit(examples, "v")
    monkeypatch.setattr(fit, "_condensed", lambda features: (features, None))
    plain, _ = fit.fit(examples, "v")
    for text, vector in zip(examples.texts, examples.embeddings, strict=True):
        expected = softmax(plain.logits(vector, text))
        assert softmax(condensed.logits(vector, text)) == pytest.approx(expected, abs=0.02)


async def test_two_intents_and_one_intent_can_be_trained(fit: ModuleType, report: ModuleType, agent_file: Path) -> None:
    examples = await examples_of(fit, agent_file)
    for count in (1, 2):
        mine = examples.labels < count
        texts = [text for text, kept in zip(examples.texts, mine, strict=True) if kept]
        part = fit.Examples(texts, examples.labels[mine], examples.names[:count], examples.embeddings[mine])
        head, evaluation = fit.fit(part, "v")
        for text, label, vector in zip(texts, part.labels, part.embeddings, strict=True):
            assert head.rank(vector, text).intents[0].name == part.names[label]
        assert list(report.lines(head, evaluation, part))


async def test_head_survives_being_written_and_read(fit: ModuleType, agent_file: Path) -> None:
    head, _ = fit.fit(await examples_of(fit, agent_file), "v")
    again = artefact.load(artefact.dump(head))
    (vector,) = await InMemoryEmbedder().embed(["track my parcel"])
    assert again.rank(vector, "track my parcel") == head.rank(vector, "track my parcel")
    assert again.version == "v"


async def test_words_tell_intents_apart_that_embeddings_do_not(fit: ModuleType, report: ModuleType) -> None:
    texts = ["alpha card", "alpha one", "beta card", "beta one"] * 3
    labels = np.array([0, 0, 1, 1] * 3, np.intp)
    same = np.full((len(texts), 4), 0.5, np.float32)
    head, evaluation = fit.fit(fit.Examples(texts, labels, ("a", "b"), same), "v")
    assert report.accuracy(evaluation, labels) == 1
    for text, name in (("alpha two", "a"), ("beta two", "b")):
        (best, _) = head.rank(same[0], text).intents
        assert best.name == name
        assert best.confidence > 0.7


async def test_temperature_divides_all_of_the_logits(
    fit: ModuleType, agent_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = await examples_of(fit, agent_file)
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


async def test_strength_with_the_best_accuracy_is_chosen(
    fit: ModuleType, agent_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = await examples_of(fit, agent_file)
    real = fit._weights

    def useless_but_for_30(features, labels, intents, strength):
        weights, bias = real(features, labels, intents, strength)
        return (weights, bias) if strength == 30 else (-weights, -bias)

    monkeypatch.setattr(fit, "_weights", useless_but_for_30)
    monkeypatch.setattr(fit, "_STRENGTHS", (10.0, 30.0, 100.0))
    _, evaluation = fit.fit(examples, "v")
    assert evaluation.strength == 30.0


def test_calibration_error_is_the_gap_between_confidence_and_accuracy(report: ModuleType) -> None:
    confidences = np.array([[0.9, 0.1]] * 10, np.float32)
    assert report.calibration_error(confidences, np.array([0] * 9 + [1])) == pytest.approx(0, abs=1e-6)
    assert report.calibration_error(confidences, np.array([1] * 10)) == pytest.approx(0.9, abs=1e-6)


def test_report_names_examples_that_two_intents_claim(fit: ModuleType, report: ModuleType) -> None:
    examples = fit.Examples(["Hello", "hello ", "bye"], np.array([0, 1, 1]), ("a", "b"), np.eye(3, dtype=np.float32))
    assert report.shared(examples) == ["hello"]
