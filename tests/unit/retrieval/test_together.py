"""Like searches go together: who waits, who does not, and whose failure is whose."""

import asyncio
from collections.abc import Sequence

import pytest

from services.retrieval.adapters.milvus_together import Together


class Refused(Exception):
    """The index would not."""


class Index:
    """Answers with the question in capitals, when it is let; refuses calls that have "bad" in them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.cut: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self, kind: str, questions: Sequence[str]) -> list[str]:
        self.calls.append((kind, list(questions)))
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cut.append(list(questions))
            raise
        if self.failure is not None:
            raise self.failure
        if "bad" in questions:
            raise Refused("bad")
        return [question.upper() for question in questions]


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def together(index: Index) -> Together[str, str, str]:
    return Together(index, Refused)


async def begun(together: Together[str, str, str], *questions: str, kind: str = "k") -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(together.ask(kind, question)) for question in questions]
    await asyncio.sleep(0.01)
    return tasks


async def test_a_refused_question_does_not_fail_the_others_of_its_call(index, together) -> None:
    tasks = await begun(together, "a", "b", "c", "bad", "d")
    index.may_answer.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(answer) for answer in answers] == ["A", "B", "C", "bad", "D"]
    assert isinstance(answers[3], Refused)


async def test_a_call_that_fails_otherwise_fails_all_its_questions_and_is_not_repeated(index, together) -> None:
    index.failure = TimeoutError()
    index.may_answer.set()
    answers = await asyncio.gather(*await begun(together, *"abcde"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [TimeoutError] * 5
    assert sorted(question for _, questions in index.calls for question in questions) == [*"abcde"]


async def test_too_few_answers_are_an_error_and_nobody_waits_for_ever() -> None:
    async def silent(_kind: str, questions: Sequence[str]) -> list[str]:
        return [question for _, question in zip(questions[1:], questions, strict=False)]

    together: Together[str, str, str] = Together(silent, Refused)
    with pytest.raises(ValueError):
        await asyncio.wait_for(together.ask("k", "a"), 1)


async def test_two_calls_are_under_way_and_what_comes_meanwhile_goes_as_one(index, together) -> None:
    tasks = await begun(together, *"abcdefgh")
    assert index.calls == [("k", ["a"]), ("k", ["b"])]
    index.may_answer.set()
    assert await asyncio.gather(*tasks) == [*"ABCDEFGH"]
    assert index.calls[2:] == [("k", [*"cdefgh"])]


async def test_a_call_has_eight_questions_at_most(index, together) -> None:
    tasks = await begun(together, *map(str, range(20)))
    index.may_answer.set()
    await asyncio.gather(*tasks)
    assert [len(questions) for _, questions in index.calls] == [1, 1, 8, 8, 2]


async def test_questions_of_another_kind_wait_for_none_of_these(index, together) -> None:
    tasks = [*await begun(together, *"abc"), *await begun(together, "x", kind="other")]
    assert index.calls[-1] == ("other", ["x"])
    index.may_answer.set()
    assert await asyncio.gather(*tasks) == [*"ABCX"]


async def test_who_stops_waiting_is_not_asked_for_and_the_others_get_theirs(index, together) -> None:
    tasks = await begun(together, *"abcde")
    for leaver in (tasks[0], tasks[3]):
        leaver.cancel()
    await asyncio.sleep(0.01)
    index.may_answer.set()
    assert await asyncio.gather(*(task for task in tasks if not task.cancelled())) == [*"BCE"]
    assert index.calls[2:] == [("k", [*"ce"])]


async def test_a_call_that_nobody_waits_for_any_more_is_cut_and_makes_room(index, together) -> None:
    tasks = await begun(together, *"abcde")
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert index.calls[2:] == [("k", [*"cde"])]
    assert index.cut == [["a"]]
    for leaver in tasks[2:4]:
        leaver.cancel()
    await asyncio.sleep(0.01)
    assert index.cut == [["a"]]  # the control: somebody still waits for it
    tasks[4].cancel()
    await asyncio.sleep(0.01)
    assert index.cut == [["a"], [*"cde"]]
    index.may_answer.set()
    assert await tasks[1] == "B"


async def test_closing_ends_what_is_under_way(together) -> None:
    tasks = await begun(together, *"ab")
    await together.close()
    assert [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [asyncio.CancelledError] * 2
