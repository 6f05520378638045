"""What a run may still spend, step by step."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.errors import BudgetExhausted, RunLimitReached
from services.orchestrator.core.spending import Price, Spending, first_step, read_prices, spent_of
from services.orchestrator.domain.agent import Agent, Message, Role, Tool, ToolCall
from services.orchestrator.domain.run import Grant, Turn
from services.orchestrator.domain.turn import Usage

AGENT = Agent("aura", 1, "You help.")
HELLO = [Message(Role.USER, "hello")]
PRICE = Price(prompt=100, completion=400)


async def no_more(wanted):
    raise AssertionError(f"asked for {wanted}")


def spending(granted=NO_AMOUNTS, price=PRICE, renews_ms=0, extend=no_more, **agent):
    turn = Turn("s.1", 1, False, "aura", (), granted=granted, renews_ms=renews_ms, left=granted)
    return Spending(Agent("aura", 1, "You help.", **agent), turn, price, extend, time.time)


@pytest.mark.parametrize(
    "setting", ["", "llm", "llm=", "llm=1", "llm=1/", "llm=/1", "=1/2", "llm=-1/2", "llm=1.5/2", "llm=1/2/3", "llm=a/b"]
)
def test_a_price_that_is_none_is_refused(setting):
    with pytest.raises(ValueError, match="model_prices"):
        read_prices([setting])


def test_a_model_has_one_price():
    with pytest.raises(ValueError, match="once for each model"):
        read_prices(["llm=1/2", "llm=3/4"])
    assert read_prices(["llm=1/2", "big=30/60"]) == {"llm": Price(1, 2), "big": Price(30, 60)}
    assert read_prices([]) == {}


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**5), st.integers(0, 10**9))
def test_what_a_price_affords_costs_no_more_and_one_more_token_would(prompt, completion, read, money):
    price = Price(prompt, completion)
    afforded = price.affords(money, read)
    if afforded is None:
        assert (completion, price.of(read, 10**6)) == (0, price.of(read, 0))
        assert price.of(read, 0) <= money
    else:
        assert afforded == 0 or price.of(read, afforded) <= money
        assert price.of(read, afforded + 1) > money


def test_without_limits_the_model_may_write_as_much_as_the_agent_says():
    assert spending().before_model(Usage(), HELLO, ()) == AGENT.max_answer_tokens
    assert spending(max_tokens=300).before_model(Usage(completion_tokens=290), HELLO, ()) == 10
    spending().before_tool(Usage(tool_calls=10**6))


@pytest.mark.parametrize(
    ("limits", "usage"),
    [
        ({"max_tokens": 300}, Usage(completion_tokens=300)),
        ({"max_cost_micros": 50}, Usage(cost_micros=50)),
    ],
)
def test_a_run_that_used_its_own_limit_is_stopped_before_the_model(limits, usage):
    with pytest.raises(RunLimitReached):
        spending(**limits).before_model(usage, HELLO, ())


@pytest.mark.parametrize(
    ("granted", "usage"),
    [
        (Amounts(tokens=100), Usage(prompt_tokens=60, completion_tokens=40)),
        (Amounts(tokens=0), Usage()),
        (Amounts(cost_micros=50), Usage(cost_micros=50)),
        (Amounts(cost_micros=0), Usage()),
    ],
)
def test_a_run_whose_grant_does_not_cover_one_token_is_stopped_before_the_model(granted, usage):
    with pytest.raises(BudgetExhausted):
        spending(granted).before_model(usage, HELLO, ())


def test_the_answer_is_cut_to_what_is_left_after_the_prompt():
    prompt = spending()._guess(HELLO, ())
    assert spending(Amounts(tokens=prompt + 1)).before_model(Usage(), HELLO, ()) == 1
    with pytest.raises(BudgetExhausted):
        spending(Amounts(tokens=prompt)).before_model(Usage(), HELLO, ())
    left = spending(Amounts(cost_micros=PRICE.of(prompt, 7))).before_model(Usage(), HELLO, ())
    assert PRICE.of(prompt, left) == PRICE.of(prompt, 7) < PRICE.of(prompt, left + 1)


@given(st.text(max_size=400), st.integers(0, 30))
def test_a_prompt_is_guessed_at_a_third_of_its_bytes_and_more(text, calls):
    asked = tuple(ToolCall(f"c{i}", "tool", text) for i in range(calls))
    guessed = spending()._guess([Message(Role.ASSISTANT, text, asked)], ())
    assert guessed >= len(text.encode()) * (calls + 1) / 3


def test_tools_that_are_offered_count_as_part_of_the_prompt():
    tool = Tool("order_status", "Looks an order up.", {"type": "object", "properties": {}}, 5.0)
    assert spending()._guess(HELLO, (tool,)) > spending()._guess(HELLO, ()) + 15


def test_what_the_model_said_of_the_last_prompt_is_believed():
    counted, usage = spending(Amounts(tokens=1000)), Usage()
    before = Usage()
    usage.prompt_tokens, usage.completion_tokens = 700, 40
    counted.after_model(usage, before, HELLO, (), ["hm"])
    longer = [*HELLO, Message(Role.ASSISTANT, ""), Message(Role.TOOL, "ok")]
    with pytest.raises(BudgetExhausted):  # 1000 - 740 does not cover 700 and more
        counted.before_model(usage, longer, ())


def test_a_call_costs_what_its_tokens_do_rounded_up():
    usage = Usage(prompt_tokens=15, completion_tokens=3, cost_micros=7)
    spending().after_model(usage, Usage(prompt_tokens=5, completion_tokens=1), HELLO, (), ["a"])
    assert usage.cost_micros == 7 + 2  # 10 * 0.1 + 2 * 0.4 = 1.8


def test_a_call_that_was_cut_counts_by_a_guess_and_one_that_never_spoke_does_not():
    cut, silent = Usage(), Usage()
    spending().after_model(cut, Usage(), HELLO, (), ["One, ", "two"])
    assert cut.prompt_tokens > 0 and cut.completion_tokens >= 2 and cut.cost_micros > 0
    spending().after_model(silent, Usage(), HELLO, (), [])
    assert silent == Usage()


def test_tool_calls_stop_exactly_at_the_limit():
    spending(max_tool_calls=3).before_tool(Usage(tool_calls=2))
    with pytest.raises(RunLimitReached):
        spending(max_tool_calls=3).before_tool(Usage(tool_calls=3))
    spending(Amounts(tool_calls=3)).before_tool(Usage(tool_calls=2))
    with pytest.raises(BudgetExhausted):
        spending(Amounts(tool_calls=3), max_tool_calls=50).before_tool(Usage(tool_calls=3))


def test_time_is_the_least_of_both_and_names_the_one_that_was_used_up():
    assert spending(timeout_s=5.0).time_s == 5.0
    assert isinstance(spending(timeout_s=5.0).out_of_time(), RunLimitReached)
    short = spending(Amounts(milliseconds=1500), timeout_s=5.0)
    assert short.time_s == 1.5
    assert isinstance(short.out_of_time(), BudgetExhausted)
    assert isinstance(spending(Amounts(milliseconds=9000), timeout_s=5.0).out_of_time(), RunLimitReached)


def test_an_exhausted_budget_says_when_its_window_renews():
    with pytest.raises(BudgetExhausted) as renewed:
        spending(Amounts(tool_calls=0), renews_ms=int(time.time() * 1000) + 30_000).before_tool(Usage())
    assert 29 < renewed.value.retry_after <= 30
    with pytest.raises(BudgetExhausted) as never:
        spending(Amounts(tool_calls=0)).before_tool(Usage())
    assert never.value.retry_after is None


def test_what_remains_is_said_of_what_is_limited_only():
    usage = Usage(prompt_tokens=10, completion_tokens=5, tool_calls=2, elapsed_s=1.25, cost_micros=3)
    assert spent_of(usage) == Amounts(15, 3, 2, 1250)
    assert spending().remaining(usage) == Amounts()
    assert spending(Amounts(tokens=20, tool_calls=1)).remaining(usage) == Amounts(tokens=5, tool_calls=0)


class Budget:
    """Gives a run as much as it wants, up to `left`."""

    def __init__(self, left):
        self.left, self.wanted = left, []

    async def __call__(self, wanted):
        self.wanted.append(wanted)
        pairs = zip(wanted, self.left, strict=True)
        granted = Amounts(*(None if most is None else min(most, each or 0) for each, most in pairs))
        return Grant(granted, 7, self.left)


async def test_a_step_that_is_covered_asks_for_nothing():
    await spending().cover_model(Usage(), HELLO, ())
    await spending(Amounts(tokens=10_000, cost_micros=10_000)).cover_model(Usage(), HELLO, ())
    await spending(Amounts(tool_calls=3)).cover_model(Usage(), HELLO, ())
    await spending().cover_tool(Usage(tool_calls=500))
    await spending(Amounts(tool_calls=3)).cover_tool(Usage(tool_calls=2))


async def test_a_step_that_is_not_covered_has_what_it_needs_set_apart_and_no_less_of_anything_else():
    budget, usage = Budget(Amounts(tokens=50_000, tool_calls=40)), Usage(prompt_tokens=600, completion_tokens=100)
    counted = spending(Amounts(tokens=800, tool_calls=9, milliseconds=5000), extend=budget)
    await counted.cover_model(usage, HELLO, ())
    need = 700 + counted._guess(HELLO, ()) + AGENT.max_answer_tokens
    assert budget.wanted == [Amounts(need, usage.cost_micros + PRICE.of(need - 956, 256), 9, 5000)]
    assert counted.before_model(usage, HELLO, ()) == AGENT.max_answer_tokens
    await counted.cover_model(usage, HELLO, ())
    assert len(budget.wanted) == 1
    assert counted.remaining(usage).tokens == 50_000 - 700


async def test_a_step_that_nobody_covers_is_stopped_where_what_is_left_ends():
    budget, usage = Budget(Amounts(tokens=700)), Usage(prompt_tokens=600, completion_tokens=100)
    counted = spending(Amounts(tokens=700), extend=budget)
    await counted.cover_model(usage, HELLO, ())
    with pytest.raises(BudgetExhausted):
        counted.before_model(usage, HELLO, ())
    less = spending(Amounts(tokens=700), extend=Budget(Amounts(tokens=800)))
    await less.cover_model(usage, HELLO, ())
    assert less.before_model(usage, HELLO, ()) == 100 - less._guess(HELLO, ())


async def test_tool_calls_are_set_apart_some_at_a_time():
    budget = Budget(Amounts(tool_calls=20))
    counted = spending(Amounts(tool_calls=3), extend=budget)
    for made in range(20):
        await counted.cover_tool(Usage(tool_calls=made))
        counted.before_tool(Usage(tool_calls=made))
    await counted.cover_tool(Usage(tool_calls=20))
    with pytest.raises(BudgetExhausted):
        counted.before_tool(Usage(tool_calls=20))
    assert [each.tool_calls for each in budget.wanted] == [19, 35, 36]


def test_what_is_set_apart_first_is_what_one_answer_takes():
    plain = first_step(Agent("aura", 1, "You help."), "hello", PRICE)
    assert 2_000 < plain.tokens < 5_000
    assert (plain.cost_micros, plain.tool_calls, plain.milliseconds) == (PRICE.of(plain.tokens - 256, 256), 0, 60_000)
    tool = Tool("order_status", "Looks an order up.", {"type": "object"}, 5.0)
    able = Agent("aura", 1, "You help.", tools={"a": tool}, model_chooses_tools=True, max_answer_tokens=4096)
    assert first_step(able, "hello", PRICE).tool_calls == 16
    assert first_step(able, "hello", PRICE).tokens > plain.tokens + 1_700
    assert tuple(first_step(replace(able, max_tool_calls=3, timeout_s=5.0), "hello", Price()))[1:] == (0, 3, 5000)
