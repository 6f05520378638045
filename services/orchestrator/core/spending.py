"""What a run may still spend: by its agent's limits, and by what budgets have granted it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.errors import BudgetExhausted, ResourceExhausted, RunLimitReached
from services.orchestrator.domain.agent import Agent, Message, Tool
from services.orchestrator.domain.run import Grant, Turn
from services.orchestrator.domain.turn import Usage

_BYTES_A_TOKEN = 3
"""What counts against a limit before it is known is guessed high: a token has about four bytes."""
_TOKENS_EACH = 4
_PER = 1000

_HISTORY_TOKENS = 2700
"""As guessed: what memory returns of the history at most."""
_FACT_TOKENS = 300
_SCHEMA_TOKENS = 150
_CALLS = 16
"""Tool calls that are set apart at a time: what one answer of the model may ask for."""

Extend = Callable[[Amounts], Awaitable[Grant]]
"""Has as much set apart for a whole run as there is, up to this."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in millionths of the operator's currency for 1,000 tokens."""

    prompt: int = 0
    completion: int = 0

    def of(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What a call costs, rounded up."""
        return -(-(self.prompt * prompt_tokens + self.completion * completion_tokens) // _PER)

    def affords(self, cost_micros: int, prompt_tokens: int) -> int | None:
        """How many tokens may be written for so much, after these were read. None: any number."""
        left = _PER * cost_micros - self.prompt * prompt_tokens
        if self.completion == 0:
            return None if left >= 0 else 0
        return max(0, left // self.completion)


def read_prices(settings: Sequence[str]) -> Mapping[str, Price]:
    """Prices of models.

    Args:
        settings: Each `model=prompt/completion`.

    Raises:
        ValueError: one of them is something else, or a model has two.
    """
    prices: dict[str, Price] = {}
    for setting in settings:
        model, _, price = setting.partition("=")
        prompt, _, completion = price.partition("/")
        if not (model and prompt.isdecimal() and completion.isdecimal()) or model in prices:
            raise ValueError(f"model_prices: {setting}: must be <model>=<prompt>/<completion>, once for each model")
        prices[model] = Price(int(prompt), int(completion))
    return prices


class Spending:
    """Says before each step whether it is covered, and keeps count of what cannot be read off.

    What a prompt takes is known only after the call. It is guessed high, and from what the last call said of the same
    conversation; so a run may spend more than it was granted by as much as a guess was too low, once.
    """

    def __init__(self, agent: Agent, turn: Turn, price: Price, extend: Extend, now: Callable[[], float]) -> None:
        """Of a turn of an agent, whose model has a price.

        `extend` has more set apart, as far as there is more; `now` is the store's time, by which budgets renew, seconds
        since 1970.
        """
        self._agent = agent
        self._granted = turn.granted
        self._renews_ms = turn.renews_ms
        self._left = turn.left
        self._price = price
        self._extend, self._now = extend, now
        self._read: tuple[int, int] = (0, 0)
        """How many messages the last call read, and how many tokens they were."""

    @property
    def time_s(self) -> float:
        """How long the run may be at work in all, seconds."""
        granted_ms = self._granted.milliseconds
        return self._agent.timeout_s if granted_ms is None else min(self._agent.timeout_s, granted_ms / 1000)

    def out_of_time(self) -> ResourceExhausted:
        """What a run fails with that has used its time."""
        if self.time_s < self._agent.timeout_s:
            return self._exhausted("time")
        return RunLimitReached(f"the run took longer than {self._agent.timeout_s:g} s")

    async def cover_model(self, usage: Usage, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        """Has more set apart when the next call of the model is not covered. Nothing is asked where nothing is limited.

        Raises:
            ServiceError: it could not be asked for.
        """
        agent, granted = self._agent, self._granted
        if granted.tokens is None and granted.cost_micros is None:
            return
        prompt = self._guess(messages, tools)
        answer = max(0, min(agent.max_answer_tokens, agent.max_tokens - usage.completion_tokens))
        tokens = usage.prompt_tokens + usage.completion_tokens + prompt + answer
        cost = usage.cost_micros + self._price.of(prompt, answer)
        if not (_covers(granted.tokens, tokens) and _covers(granted.cost_micros, cost)):
            await self._want(Amounts(tokens, cost))

    async def cover_tool(self, usage: Usage) -> None:
        """As `cover_model`, when one more tool call is not covered."""
        if not _covers(self._granted.tool_calls, usage.tool_calls + 1):
            await self._want(Amounts(tool_calls=usage.tool_calls + _CALLS))

    async def _want(self, need: Amounts) -> None:
        """Has so much set apart for the whole run, and no less of anything than was."""
        pairs = zip(need, self._granted, strict=True)
        wanted = (max((each for each in pair if each is not None), default=None) for pair in pairs)
        found = await self._extend(Amounts(*wanted))
        self._granted, self._renews_ms, self._left = found.granted, found.renews_ms, found.left

    def before_model(self, usage: Usage, messages: Sequence[Message], tools: Sequence[Tool]) -> int:
        """How many tokens the model may write, 1 at least.

        Raises:
            RunLimitReached, BudgetExhausted: not even one.
        """
        self._check_time(usage)
        agent, granted = self._agent, self._granted
        counts = agent.max_cost_micros or granted.tokens is not None or granted.cost_micros is not None
        prompt = self._guess(messages, tools) if counts else 0  # a guess takes time: every word of the conversation
        most = agent.max_tokens - usage.completion_tokens
        if most < 1:
            raise RunLimitReached(f"the run used all of its {agent.max_tokens} tokens")
        if agent.max_cost_micros:
            afforded = self._price.affords(agent.max_cost_micros - usage.cost_micros, prompt)
            most = most if afforded is None else min(most, afforded)
            if most < 1:
                raise RunLimitReached(f"the run used all of its {agent.max_cost_micros} millionths of money")
        if granted.tokens is not None:
            most = min(most, granted.tokens - usage.prompt_tokens - usage.completion_tokens - prompt)
            if most < 1:
                raise self._exhausted("tokens")
        if granted.cost_micros is not None:
            afforded = self._price.affords(granted.cost_micros - usage.cost_micros, prompt)
            most = most if afforded is None else min(most, afforded)
            if most < 1:
                raise self._exhausted("money")
        return min(most, agent.max_answer_tokens)

    def before_tool(self, usage: Usage) -> None:
        """Lets a tool be called.

        Raises:
            RunLimitReached, BudgetExhausted: it is one too many.
        """
        self._check_time(usage)
        most, granted = self._agent.max_tool_calls, self._granted.tool_calls
        if most and usage.tool_calls >= most:
            raise RunLimitReached(f"the run used all of its {most} tool calls")
        if granted is not None and usage.tool_calls >= granted:
            raise self._exhausted("tool calls")

    def after_model(
        self, usage: Usage, before: Usage, messages: Sequence[Message], tools: Sequence[Tool], said: Sequence[str]
    ) -> None:
        """Counts what a call of the model cost. Of one that was cut before it said what it used, by a guess."""
        prompt = usage.prompt_tokens - before.prompt_tokens
        completion = usage.completion_tokens - before.completion_tokens
        if prompt:
            self._read = (len(messages), prompt)
        elif said:
            prompt, completion = self._guess(messages, tools), max(len(said), _tokens("".join(said)))
            usage.prompt_tokens += prompt
            usage.completion_tokens += completion
        usage.cost_micros += self._price.of(prompt, completion)

    def remaining(self, usage: Usage) -> Amounts:
        """What budgets have left for the run."""
        return self._left.less(spent_of(usage)) if self._left else NO_AMOUNTS

    def _check_time(self, usage: Usage) -> None:
        if usage.elapsed_s >= self.time_s:
            raise self.out_of_time()

    def _guess(self, messages: Sequence[Message], tools: Sequence[Tool]) -> int:
        count, known = self._read
        if known and count <= len(messages):
            return known + sum(map(_size, messages[count:]))
        return sum(map(_size, messages)) + sum(map(_schema_size, tools))

    def _exhausted(self, what: str) -> BudgetExhausted:
        wait_s = max(0.0, self._renews_ms / 1000 - self._now()) if self._renews_ms else None
        return BudgetExhausted(f"the budget has not enough left for the next step: {what}", retry_after=wait_s)


def first_step(agent: Agent, text: str, price: Price) -> Amounts:
    """About what the first step of a run may need: what is missing is asked for when it is known better.

    Args:
        agent: Whose run.
        text: What its user says.
        price: Of its model.
    """
    facts = agent.knowledge.top_k * _FACT_TOKENS if agent.knowledge else 0
    schemas = len(agent.tools) * _SCHEMA_TOKENS if agent.model_chooses_tools else 0
    prompt = _tokens(agent.persona) + _tokens(text) + _HISTORY_TOKENS + facts + schemas
    answer = min(agent.max_answer_tokens, agent.max_tokens)
    calls = min(_CALLS, agent.max_tool_calls or _CALLS) if agent.tools else 0
    return Amounts(prompt + answer, price.of(prompt, answer), calls, int(agent.timeout_s * 1000))


def spent_of(usage: Usage) -> Amounts:
    """What a run has spent, all of it."""
    return Amounts(
        usage.prompt_tokens + usage.completion_tokens,
        usage.cost_micros,
        usage.tool_calls,
        int(usage.elapsed_s * 1000),
    )


def _covers(granted: int | None, need: int) -> bool:
    return granted is None or granted >= need


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // _BYTES_A_TOKEN)


def _size(message: Message) -> int:
    calls = sum(_tokens(call.tool) + _tokens(call.arguments_json) + _TOKENS_EACH for call in message.tool_calls)
    return _tokens(message.content) + calls + _TOKENS_EACH


def _schema_size(tool: Tool) -> int:
    schema = len(orjson.dumps(tool.parameters)) // _BYTES_A_TOKEN
    return _tokens(tool.name) + _tokens(tool.description) + schema + _TOKENS_EACH
