import re
from collections import Counter
from datetime import date
from pathlib import Path

import protovalidate
import pytest
import yaml
from google.protobuf import json_format

from examples.crm.orders import FIRST, LAST, order
from examples.crm.refunds import Refunds
from examples.crm.server import shown, shown_refund
from myriad.common.v1 import agent_pb2, tool_pb2

AURA = Path(__file__).parents[3] / "examples" / "aura"
ARTICLES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((AURA / "knowledge").glob("*.md"))}
BUILT_IN_ENTITIES = {"amount", "date", "email", "number", "phone", "url"}


@pytest.fixture(scope="module")
def aura() -> agent_pb2.Agent:
    written = yaml.safe_load((AURA / "agent.yaml").read_text(encoding="utf-8"))
    return json_format.ParseDict(written, agent_pb2.Agent())


def test_the_agent_keeps_its_contract(aura: agent_pb2.Agent) -> None:
    protovalidate.validate(aura)
    assert aura.name == "aura"
    assert aura.model.tool_choice == agent_pb2.TOOL_CHOICE_INTENT


def test_each_intent_is_said_in_a_dozen_ways_or_more(aura: agent_pb2.Agent) -> None:
    assert len(aura.intents) >= 12
    assert {intent.name: len(intent.examples) for intent in aura.intents if len(intent.examples) < 12} == {}


def test_no_phrase_is_there_twice(aura: agent_pb2.Agent) -> None:
    phrases = Counter(_plain(phrase) for intent in aura.intents for phrase in intent.examples)
    assert [phrase for phrase, count in phrases.items() if count > 1] == []


def test_no_phrase_is_cut_by_a_comment() -> None:
    lines = (AURA / "agent.yaml").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r"\s*- [^'\"].*\s#", line)] == []


def test_names_are_unique(aura: agent_pb2.Agent) -> None:
    for named in (aura.intents, aura.entities, aura.tools):
        names = [each.name for each in named]
        assert len(names) == len(set(names))
    assert not BUILT_IN_ENTITIES & {entity.name for entity in aura.entities}


def test_a_bound_tool_exists_and_gets_its_parameters_from_entities_that_exist(aura: agent_pb2.Agent) -> None:
    tools = {tool.name: json_format.MessageToDict(tool.parameters) for tool in aura.tools}
    entities = BUILT_IN_ENTITIES | {entity.name for entity in aura.entities}
    bound = [intent.tool for intent in aura.intents if intent.HasField("tool")]
    assert {binding.name for binding in bound} == set(tools)
    for binding in bound:
        schema = tools[binding.name]
        assert set(binding.arguments.values()) <= entities
        assert set(schema.get("required", ())) <= set(binding.arguments) <= set(schema.get("properties", ()))


def test_what_a_tool_maps_is_in_the_answer_of_the_crm(aura: agent_pb2.Agent) -> None:
    found = order(FIRST, date(2026, 11, 20))
    assert found is not None
    answers = {
        "order_status": shown(found),
        "refund_order": shown_refund(Refunds().make(found, {}, "")),
    }
    for tool in aura.tools:
        if tool.HasField("http"):
            assert {pointer.removeprefix("/") for pointer in tool.http.response.values()} <= set(answers[tool.name])


def test_only_the_refund_has_side_effects(aura: agent_pb2.Agent) -> None:
    classes = {tool.name: tool.side_effect for tool in aura.tools}
    assert classes.pop("refund_order") == tool_pb2.SIDE_EFFECT_SIDE_EFFECT
    assert set(classes.values()) == {tool_pb2.SIDE_EFFECT_READ}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Where is my order 1007?", "1007"),
        ("#1044", "1044"),
        ("call 202-555-0142", None),
        ("I have 11007 reasons", None),
        ("order 2007", None),
    ],
)
def test_an_order_number_has_four_digits_that_begin_with_1(aura: agent_pb2.Agent, text: str, found: str | None) -> None:
    (pattern,) = _patterns(aura, "order_id")
    match = pattern.search(text)
    assert (match[1] if match else None) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is 3 * 12?", "3 * 12"),
        ("sum 45 + 34 + 12.5", "45 + 34 + 12.5"),
        ("120/8", "120/8"),
        ("100 - 31", "100 - 31"),
        ("call 202-555-0142", None),
        ("on 2026-11-20", None),
        ("order 1007", None),
    ],
)
def test_an_expression_has_an_operator_and_is_no_date_or_phone_number(
    aura: agent_pb2.Agent, text: str, found: str | None
) -> None:
    (pattern,) = _patterns(aura, "expression")
    match = pattern.search(text)
    assert (match[0] if match else None) == found


def test_each_order_of_the_crm_has_a_number_the_agent_understands(aura: agent_pb2.Agent) -> None:
    (pattern,) = _patterns(aura, "order_id")
    assert (FIRST, LAST) == (1001, 1060)
    assert all(pattern.fullmatch(str(number)) for number in range(FIRST, LAST + 1))


def test_there_are_enough_articles() -> None:
    assert len(ARTICLES) >= 25


@pytest.mark.parametrize("name", ARTICLES)
def test_an_article_has_a_title_and_one_topic(name: str) -> None:
    title, blank, *body = ARTICLES[name].splitlines()
    assert re.fullmatch(r"# \S.{2,60}", title)
    assert blank == ""
    assert 40 <= len(" ".join(body).split()) <= 160
    assert not [line for line in body if line.startswith("#")]


def test_titles_are_unique() -> None:
    titles = [text.splitlines()[0] for text in ARTICLES.values()]
    assert len(titles) == len(set(titles))


def test_the_article_on_returns_says_how_many_days_they_may_take() -> None:
    assert "You can return any item within 30 days of delivery." in _plain_text("returns")


@pytest.mark.parametrize(
    ("fact", "other"),
    [
        (r"within (\d+) days of delivery", {"30", "7"}),
        (r"[Ss]tandard shipping costs (\$\d+\.\d\d)", {"$4.90"}),
        (r"[Ee]xpress shipping costs (\$\d+\.\d\d)", {"$12.90"}),
        (r"[Ii]nternational shipping costs (\$\d+\.\d\d)", {"$19.90"}),
        (r"(?:call|Call)[a-z ]* at ([\d-]+)", {"202-555-0142"}),
        (r"write to (\S+@\S+\w)", {"help@kettlelane.example"}),
        (r"Monday to Friday, (\d+ am to \d+ pm)", {"9 am to 5 pm"}),
        (r"(Swift \w+|Arrow \w+|Globe \w+)", {"Swift Post", "Arrow Express", "Globe Parcel"}),
    ],
)
def test_a_fact_is_the_same_in_all_articles(fact: str, other: set[str]) -> None:
    assert {found for name in ARTICLES for found in re.findall(fact, _plain_text(name))} == other


def _plain_text(name: str) -> str:
    return " ".join(ARTICLES[name].split())


def _plain(phrase: str) -> str:
    return " ".join(re.findall(r"\w+|[*/+-]", phrase.casefold()))


def _patterns(aura: agent_pb2.Agent, entity: str) -> list[re.Pattern[str]]:
    return [re.compile(pattern) for each in aura.entities if each.name == entity for pattern in each.patterns]
