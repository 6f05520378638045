from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.nlu.agent import EntityType, ListedValue
from services.nlu.core.entities.extract import Extractor
from services.nlu.core.entities.spans import MOST, Entity, resolve
from services.nlu.core.entities.vocabulary import BadPattern, Vocabulary, compile_pattern
from tests.support.cpu import within
from tests.support.nlu import NOW

NOTHING = Vocabulary([])
EXTRACTOR = Extractor("")


def find(text: str, vocabulary: Vocabulary = NOTHING, now: datetime = NOW) -> list[tuple[str, str, str]]:
    return [(each.type, each.text, each.value) for each in EXTRACTOR.find(text, vocabulary, now)]


def values(text: str, kind: str) -> list[str]:
    return [value for name, _, value in find(text) if name == kind]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on 2025-04-01", "2025-04-01"),
        ("at 2025-04-01T10:00:00Z", "2025-04-01T10:00+00:00"),
        ("12.03.2025", "2025-03-12"),
        ("03/12/2025", "2025-03-12"),
        ("31/12/2024", "2024-12-31"),
        ("since 12 March 2024", "2024-03-12"),
        ("March 12, 2024", "2024-03-12"),
        ("the 5th of May", "2025-05-05"),
        ("today", "2025-03-05"),
        ("Tomorrow, please", "2025-03-06"),
        ("the day after tomorrow", "2025-03-07"),
        ("the day before yesterday", "2025-03-03"),
        ("last friday", "2025-02-28"),
        ("next friday at 5pm", "2025-03-07T17:00"),
        ("at 17:30", "2025-03-05T17:30"),
        ("at 9am", "2025-03-06T09:00"),
        ("by Fri 9am EST", "2025-03-07T09:00-05:00"),
        ("in 3 days", "2025-03-08"),
        ("2 weeks ago", "2025-02-19"),
        ("1 month ago", "2025-02-05"),
        ("3 months from now", "2025-06-05"),
        ("in two hours", "2025-03-05T12:00"),
        ("Mar 3 to Mar 8", "2025-03-03/2025-03-08"),
        ("next Monday to Wednesday", "2025-03-10/2025-03-12"),
    ],
)
def test_date_becomes_iso_8601(text: str, value: str) -> None:
    assert values(text, "date") == [value]


@pytest.mark.parametrize(
    "text",
    [
        "within 30 days", "half an hour ago", "31.02.2025", "2025-13-45", "feb 30", "version 1.2.3", "call 555-0101",
        "open 24/7", "in the 1990s", "I sat in the sun", "may I march on", "a second, please", "order 10a", "3-4 days",
        "in 99999999 days", "5000000 years ago",
    ],
)  # fmt: skip
def test_what_is_no_date_is_not_one(text: str) -> None:
    assert values(text, "date") == []


def test_end_of_a_short_month_stays_in_the_month() -> None:
    now = datetime(2025, 3, 31, tzinfo=UTC)
    assert find("1 month ago", now=now) == [("date", "1 month ago", "2025-02-28")]


def test_members_of_a_list_are_entities_of_their_own() -> None:
    assert find("Monday 3 pm or Tu noon") == [
        ("date", "Monday 3 pm", "2025-03-10T15:00"),
        ("date", "Tu noon", "2025-03-11T12:00"),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12.50 EUR", "12.50 EUR"),
        ("12,5 €", "12.50 EUR"),
        ("€ 1.234,56", "1234.56 EUR"),
        ("$1,234.5", "1234.50 USD"),
        ("5 dollars", "5.00 USD"),
        ("¥500", "500 JPY"),
        ("USD 20", "20.00 USD"),
        ("20 usd", "20.00 USD"),
        ("1 234 zł", "1234.00 PLN"),
    ],
)
def test_amount_becomes_number_and_currency(text: str, value: str) -> None:
    assert find(text) == [("amount", text, value)]


@pytest.mark.parametrize("text", ["3 try", "50%", "USDA 5", "12.5.6 EUR", "EURO2024"])
def test_what_is_no_amount_is_not_one(text: str) -> None:
    assert values(text, "amount") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("order 1001", "1001"), ("1,234.50", "1234.5"), ("3.141", "3.141"), ("12,5", "12.5"), ("-5 degrees", "-5"),
     ("order-1001", "1001"), ("007", "7"), ("-0", "0"), ("100", "100")],
)  # fmt: skip
def test_number_becomes_plain_digits(text: str, value: str) -> None:
    assert values(text, "number") == [value]


@pytest.mark.parametrize("text", ["A1001", "1.2.3", "17:30", "10x", "9" * 40, "²", "٣"])
def test_what_is_no_number_is_not_one(text: str) -> None:
    assert values(text, "number") == []


def test_email_keeps_its_local_part_and_lowers_its_domain() -> None:
    assert find("mail Bob.Smith+x@Example.COM.") == [("email", "Bob.Smith+x@Example.COM", "Bob.Smith+x@example.com")]


@pytest.mark.parametrize("text", ["a@b", "@ann", "a..b@c.de", ".a@b.de", "a@b@c", "a @b.de", "a@-"])
def test_what_is_no_email_is_not_one(text: str) -> None:
    assert values(text, "email") == []


def test_url_is_cut_from_its_sentence() -> None:
    assert find("see (HTTPS://Example.com/A_(b)?c=1), or www.foo.org!") == [
        ("url", "HTTPS://Example.com/A_(b)?c=1", "https://example.com/A_(b)?c=1"),
        ("url", "www.foo.org", "https://www.foo.org"),
    ]


@pytest.mark.parametrize("text", ["http://", "http://[", "http://...", "www.", "ftp//x", "https://)"])
def test_what_is_no_url_is_not_one(text: str) -> None:
    assert values(text, "url") == []


def test_international_phone_number_becomes_e164() -> None:
    assert find("call +49 (0)30 901820 now") == [("phone", "+49 (0)30 901820", "+4930901820")]


def test_national_phone_numbers_need_a_region() -> None:
    text = "call 202-555-0123 now"
    assert values(text, "phone") == []
    found = Extractor("US").find(text, NOTHING, NOW)
    assert [(each.type, each.value) for each in found] == [("phone", "+12025550123")]


def test_listed_value_is_found_as_whole_words_whatever_their_case() -> None:
    shop = Vocabulary(
        [EntityType("plan", (ListedValue("Premium Plus", ("premium+", "the big one")), ListedValue("Basic")))]
    )
    assert find("is PREMIUM  plus, or the Big one, better than basics or basic?", shop) == [
        ("plan", "PREMIUM  plus", "Premium Plus"),
        ("plan", "the Big one", "Premium Plus"),
        ("plan", "basic", "Basic"),
    ]
    assert find("premium+", shop) == [("plan", "premium+", "Premium Plus")]


def test_longest_listed_value_wins_within_a_type() -> None:
    vocabulary = Vocabulary([EntityType("city", (ListedValue("York"), ListedValue("New York")))])
    assert find("in New York", vocabulary) == [("city", "New York", "New York")]


def test_listed_values_that_begin_alike_are_all_found() -> None:
    values = (ListedValue("gold"), ListedValue("gold plus"), ListedValue("gold plus family"))
    vocabulary = Vocabulary([EntityType("plan", values)])
    found = [value for _, _, value in find("gold, gold plus, gold plus family or gold pl", vocabulary)]
    assert found == ["gold", "gold plus", "gold plus family", "gold"]


def test_pattern_gives_its_group_or_the_whole_match() -> None:
    vocabulary = Vocabulary([EntityType("order", (), (r"(?i)order\s+#?(\d{4})", r"\b[A-Z]{2}-\d+\b"))])
    assert find("Order #1001 and AB-77", vocabulary) == [
        ("order", "Order #1001", "1001"),
        ("number", "1001", "1001"),
        ("order", "AB-77", "AB-77"),
        ("number", "77", "77"),
    ]


def test_pattern_that_matches_nothing_at_all_finds_nothing() -> None:
    assert find("abc", Vocabulary([EntityType("x", (), ("x*", "(y)?"))])) == []


@pytest.mark.parametrize("pattern", ["(", r"(?=x)", r"(a)\1", "(a{1000}){1000}", "[z-a]", r"((a{100}){100}){100}"])
def test_pattern_that_re2_refuses_is_a_problem_and_no_failure(pattern: str) -> None:
    with pytest.raises(BadPattern):
        compile_pattern(pattern)
    vocabulary = Vocabulary([EntityType("bad", (), (pattern,)), EntityType("good", (), ("abc",))])
    assert len(vocabulary.problems) == 1
    assert "bad" in vocabulary.problems[0]
    assert find("abc", vocabulary) == [("good", "abc", "abc")]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "a.*b|a", "(.*)*x", "(a?){50}a{50}b"])
def test_hostile_pattern_takes_time_linear_in_the_text(pattern: str) -> None:
    vocabulary = Vocabulary([EntityType("x", (), (pattern,))])
    with within(0.5):
        list(vocabulary.find("a" * 8000))


def test_offsets_count_code_points() -> None:
    text = "👍🏽 né 12 EUR"
    (entity,) = EXTRACTOR.find(text, NOTHING, NOW)
    assert (entity.start, entity.end) == (6, 12)
    assert text[entity.start : entity.end] == "12 EUR"


def test_digits_of_a_date_amount_or_phone_are_no_numbers_besides() -> None:
    kinds = [kind for kind, _, _ in find("1001 on 12 March 2025 for 12.50 EUR, +49 30 901820")]
    assert kinds == ["number", "date", "amount", "phone"]


def test_crossing_entities_do_not_both_stay() -> None:
    own = Entity("slot", "b c", 2, 5, "b c")
    crossing = Entity("date", "a b", 0, 3, "x")
    assert resolve([crossing], [own]) == [own]


def test_agents_own_entity_may_lie_within_another() -> None:
    outer = Entity("date", "a b c", 0, 5, "x")
    inner = Entity("slot", "b", 2, 3, "b")
    assert resolve([outer], [inner]) == [outer, inner]


def test_number_of_entities_is_bounded() -> None:
    assert len(find("7 " * 4000)) == MOST


HOSTILE = {
    "days": "monday " * 1100, "or": "3 pm or 4 and 5 to " * 420, "dashes": "1-" * 4000, "colons": "1:2:3-4/" * 1000,
    "phones": "+1 202 555 0123 " * 500, "plus": "+1 " * 2600, "at": "a@" * 4000, "local": "a" * 7999 + "@",
    "http": "http://" * 1100, "nines": "9" * 8000, "groups": "1 000 000 " * 800, "euros": "1 EUR " * 1300,
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_longest_text_takes_bounded_time(text: str) -> None:
    with within(1.0):
        EXTRACTOR.find(text[:8000], NOTHING, NOW)


PIECES = (
    "monday sat sun next last this march 12 feb 30 29 31 2025 0000 9999 99999999999 in ago days weeks months years "
    "25pm 17:30 99:99 24:00 2025-13-45 2025-04-01T25:00 31.02.2025 1/2 13/13/2025 the day after tomorrow noon EST and "
    "to between from - , . : / $ € EUR usd 1,234.50 ,, .. +49 +1 202 555 0123 (0) http://[ https://a.b/(x) www. @ a@b "
    "half an hundred second 0th past quarter christmas now ３ ٣ ² ½ é 👍 １２ ＋４９ mon-fri 9-5 -5 −3"
).split()
JOINED = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(JOINED.map(" ".join), JOINED.map("".join), st.text(max_size=80)))
def test_any_text_gives_entities_that_stand_where_they_say(text: str) -> None:
    found = EXTRACTOR.find(text, NOTHING, NOW)
    assert all(text[each.start : each.end] == each.text and each.text and each.value for each in found)
    for one in found:
        assert not any(one.overlaps(other) for other in found if other is not one)


def test_sign_that_the_date_library_chokes_on_is_no_failure() -> None:
    assert values("² to hundred fy25 17:30 months 17:30", "date") == []
