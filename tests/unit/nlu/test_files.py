import asyncio
import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.nlu.adapters import files
from services.nlu.adapters.files import MISSING_FOR_S, FileIntentModels
from services.nlu.agent import Agent, Intent
from services.nlu.intents import artefact
from services.nlu.intents.head import IntentHead
from tests.support.nlu import ANN, centroid_head, renamed

AGENT = Agent("aura", 1, (Intent("yes", ("yes please", "sure thing")), Intent("no", ("no thanks", "never mind"))))


@pytest.fixture
async def head() -> IntentHead:
    return await centroid_head(AGENT)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, algorithm=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK", b"\x00" * 1000, pickle.dumps({"a": 1}), pickled()])
async def test_corrupt_file_is_missing_until_it_is_replaced(tmp_path: Path, head: IntentHead, content: bytes) -> None:
    now = 0.0
    models = FileIntentModels(tmp_path, capacity=2, now=lambda: now)
    path = models.path("acme", "aura", head.version)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert await models.load(ANN, "aura", head.version) is None
    await models.save(ANN, "aura", head)
    now += MISSING_FOR_S
    assert await models.load(ANN, "aura", head.version) is not None


async def test_file_cut_anywhere_is_missing(tmp_path: Path, head: IntentHead) -> None:
    content = artefact.dump(head)
    path = tmp_path / f"{head.version}.npz"
    for size in range(0, len(content), max(1, len(content) // 25)):
        path.write_bytes(content[:size])
        assert files.read(path) is None
    for place in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        files.read(path)  # whatever a flipped byte makes of it, it is no exception


async def test_parts_that_do_not_fit_are_refused(head: IntentHead) -> None:
    for wrong in (
        replace(head, names=("yes",)),
        replace(head, bias=np.zeros(3, np.float32)),
        replace(head, centroids=head.centroids[:, :10]),
        replace(head, names=(), weights=head.weights[:0], bias=head.bias[:0], centroids=head.centroids[:0]),
    ):
        with pytest.raises(artefact.BadArtefact):
            artefact.load(artefact.dump(wrong))


async def test_artefact_of_another_algorithm_is_refused(head: IntentHead, monkeypatch: pytest.MonkeyPatch) -> None:
    content = artefact.dump(head)
    monkeypatch.setattr(artefact, "ALGORITHM", "other")
    with pytest.raises(artefact.BadArtefact, match="algorithm"):
        artefact.load(content)


async def test_file_under_another_versions_name_is_missing(tmp_path: Path, head: IntentHead) -> None:
    models = FileIntentModels(tmp_path, capacity=2)
    files.write(models.path("acme", "aura", "f" * 32), artefact.dump(head))
    assert await models.load(ANN, "aura", "f" * 32) is None


async def test_only_the_last_used_heads_are_kept(tmp_path: Path, head: IntentHead, monkeypatch) -> None:
    reads = []
    real = files.read
    monkeypatch.setattr(files, "read", lambda path: reads.append(path.stem) or real(path))
    models = FileIntentModels(tmp_path, capacity=2)
    for version in ("a", "b", "c"):
        await models.save(ANN, "aura", renamed(head, version))
    for version in ("a", "b", "a", "c", "a", "b"):
        assert (await models.load(ANN, "aura", version)).version == version
    assert reads == ["a", "b", "c", "b"]


async def test_missing_file_is_not_looked_for_at_every_call(tmp_path: Path, monkeypatch) -> None:
    reads = []
    monkeypatch.setattr(files, "read", reads.append)
    models = FileIntentModels(tmp_path, capacity=2, now=lambda: 0.0)
    for _ in range(5):
        assert await models.load(ANN, "aura", "a" * 32) is None
    assert len(reads) == 1


async def test_file_is_read_once_for_all_who_wait_and_one_who_leaves_disturbs_none(
    tmp_path: Path, head: IntentHead, monkeypatch
) -> None:
    reads = []
    real = files.read
    monkeypatch.setattr(files, "read", lambda path: reads.append(path) or real(path))
    models = FileIntentModels(tmp_path, capacity=2)
    await models.save(ANN, "aura", head)
    waiting = [asyncio.create_task(models.load(ANN, "aura", head.version)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(each.version == head.version for each in found[1:])
    assert len(reads) == 1


async def test_failed_write_leaves_what_was_there(tmp_path: Path, head: IntentHead, monkeypatch) -> None:
    models = FileIntentModels(tmp_path, capacity=2)
    await models.save(ANN, "aura", head)
    monkeypatch.setattr(files.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        await models.save(ANN, "aura", head)
    folder = models.path("acme", "aura", head.version).parent
    assert [path.name for path in folder.iterdir()] == [f"{head.version}.npz"]
    assert files.read(folder / f"{head.version}.npz") is not None
