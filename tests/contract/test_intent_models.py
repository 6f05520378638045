"""One list of behaviours for intent models: in memory, and in files."""

import asyncio
from pathlib import Path

import pytest

from services.kit.call import Principal
from services.nlu.adapters.files import MISSING_FOR_S, FileIntentModels
from services.nlu.adapters.inmemory import InMemoryIntentModels
from services.nlu.agent import Agent, Intent
from services.nlu.intents.head import IntentHead
from tests.support.nlu import ANN, centroid_head, renamed

AGENT = Agent("aura", 1, (Intent("yes", ("yes please", "sure thing")), Intent("no", ("no thanks", "never mind"))))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "files"])
def models(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock):
    return InMemoryIntentModels() if request.param == "memory" else FileIntentModels(tmp_path, capacity=2, now=clock)


@pytest.fixture
async def head() -> IntentHead:
    return await centroid_head(AGENT)


async def test_head_that_is_not_there_is_none(models) -> None:
    assert await models.load(ANN, "aura", "0" * 32) is None


async def test_saved_head_is_found_by_its_version(models, head: IntentHead) -> None:
    await models.save(ANN, "aura", head)
    found = await models.load(ANN, "aura", head.version)
    assert found.version == head.version
    assert found.names == ("yes", "no")
    assert found.rank(head.centroids[1], "no thanks") == head.rank(head.centroids[1], "no thanks")


async def test_head_is_its_tenants_and_its_agents_alone(models, head: IntentHead) -> None:
    await models.save(ANN, "aura", head)
    assert await models.load(Principal("other", "ann"), "aura", head.version) is None
    assert await models.load(ANN, "other", head.version) is None
    assert await models.load(Principal("acme", "bob"), "aura", head.version) is not None


@pytest.mark.parametrize("tenant", ["..", "../acme", "a/b", "/", "ACME", "acme ", ".", "ä", "x" * 500, "=", "nul\x00"])
async def test_tenant_of_any_name_has_models_of_its_own(models, head: IntentHead, tenant: str) -> None:
    odd = Principal(tenant, "ann")
    await models.save(odd, "aura", head)
    assert await models.load(odd, "aura", head.version) is not None
    assert await models.load(ANN, "aura", head.version) is None


async def test_head_that_appears_later_is_found(models, head: IntentHead, clock: Clock) -> None:
    assert await models.load(ANN, "aura", head.version) is None
    await models.save(ANN, "aura", head)
    clock.now += MISSING_FOR_S
    assert MISSING_FOR_S <= 2
    assert await models.load(ANN, "aura", head.version) is not None


async def test_two_versions_are_there_side_by_side(models, head: IntentHead) -> None:
    for version in ("a" * 32, "b" * 32):
        await models.save(ANN, "aura", renamed(head, version))
    for version in ("a" * 32, "b" * 32):
        assert (await models.load(ANN, "aura", version)).version == version


async def test_saving_again_replaces(models, head: IntentHead) -> None:
    await models.save(ANN, "aura", head)
    await models.save(ANN, "aura", head)
    assert await models.load(ANN, "aura", head.version) is not None


async def test_many_may_ask_at_once(models, head: IntentHead) -> None:
    await models.save(ANN, "aura", head)
    found = await asyncio.gather(*(models.load(ANN, "aura", head.version) for _ in range(20)))
    assert all(each is not None for each in found)
