"""Arithmetic on text, without eval: a precedence parser over decimal numbers.

    sum     = product (("+" | "-") product)*
    product = signed (("*" | "/" | "//" | "%") signed)*
    signed  = ("+" | "-") signed | power
    power   = atom (("**" | "^") signed)?
    atom    = number | "pi" | name "(" sum ("," sum)* ")" | "(" sum ")"

Decimal, so that 0.1 + 0.2 is 0.3. `//` and `%` round towards minus infinity; `round` rounds halves away from zero.
"""

import decimal
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

MAX_LENGTH = 300
MAX_DEPTH = 40
MAX_EXPONENT = 1_000
_DIGITS = 34
_MAGNITUDE = 300
_SHOWN_DIGITS = 15
_PI = "3.141592653589793238462643383279503"

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_]+)|(?P<sign>\*\*|//|[-+*/%^(),])|(?P<end>$))"
)


class CalculationError(Exception):
    """The expression has no value. The message says why, for the one who wrote it."""


def calculate(expression: str) -> int | float:
    """The value of an expression: exact when it is a whole number below 10^28, else to 15 significant digits.

    Raises:
        CalculationError: it is not an expression, is longer than 300 characters or nests deeper than 40 levels,
            divides by zero, or a number passes 10^300 on the way.
    """
    if len(expression) > MAX_LENGTH:
        raise CalculationError(f"the expression is longer than {MAX_LENGTH} characters")
    context = decimal.Context(
        prec=_DIGITS,
        rounding=decimal.ROUND_HALF_UP,
        Emin=-_MAGNITUDE,
        Emax=_MAGNITUDE,
        traps=[decimal.DivisionByZero, decimal.InvalidOperation, decimal.Overflow],
    )
    try:
        return _shown(_Parser(expression, context).value(), context)
    except decimal.DivisionByZero:
        raise CalculationError("division by zero") from None
    except decimal.Overflow:
        raise CalculationError("a number is too large") from None
    except decimal.InvalidOperation:
        raise CalculationError("an operation has no value for these numbers") from None


def _shown(value: Decimal, context: decimal.Context) -> int | float:
    rounded = decimal.Context(prec=_SHOWN_DIGITS, rounding=decimal.ROUND_HALF_UP).plus(value)
    for each in (value, rounded):
        if each == each.to_integral_value(context=context) and abs(each) < Decimal(10) ** 28:
            return int(each)
    return float(rounded)


class _Parser:
    """Reads and computes in one pass."""

    def __init__(self, text: str, context: decimal.Context) -> None:
        self._text = text
        self._context = context
        self._at = 0
        self._depth = 0
        self._kind: str | None = None
        self._token = ""
        self._functions: dict[str, Callable[..., Decimal]] = {
            "abs": context.abs,
            "ceil": lambda number: self._whole(number, decimal.ROUND_CEILING),
            "floor": lambda number: self._whole(number, decimal.ROUND_FLOOR),
            "max": lambda first, *rest: max(first, *rest) if rest else first,
            "min": lambda first, *rest: min(first, *rest) if rest else first,
            "round": self._round,
            "sqrt": context.sqrt,
        }

    def value(self) -> Decimal:
        self._next()
        value = self._sum()
        if self._kind != "end":
            raise self._unexpected()
        return value

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise CalculationError(f"nothing known begins at character {self._at + 1}")
        self._kind, self._token, self._at = found.lastgroup, found[found.lastgroup or 0], found.end()

    def _accept(self, *signs: str) -> str:
        if self._kind != "sign" or self._token not in signs:
            return ""
        sign = self._token
        self._next()
        return sign

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            raise self._unexpected()

    def _unexpected(self) -> CalculationError:
        if self._kind == "end":
            return CalculationError("the expression ends too early")
        return CalculationError(f"{self._token!r} is not expected before character {self._at + 1}")

    def _sum(self) -> Decimal:
        value = self._product()
        while sign := self._accept("+", "-"):
            other = self._product()
            value = self._context.add(value, other) if sign == "+" else self._context.subtract(value, other)
        return value

    def _product(self) -> Decimal:
        value = self._signed()
        while sign := self._accept("*", "/", "//", "%"):
            other = self._signed()
            match sign:
                case "*":
                    value = self._context.multiply(value, other)
                case "/":
                    value = self._divide(value, other)
                case _:
                    whole, rest = self._divide_whole(value, other)
                    value = whole if sign == "//" else rest
        return value

    def _signed(self) -> Decimal:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CalculationError(f"the expression nests deeper than {MAX_DEPTH} levels")
        sign = self._accept("+", "-")
        value = self._signed() if sign else self._power()
        self._depth -= 1
        return self._context.minus(value) if sign == "-" else value

    def _power(self) -> Decimal:
        base = self._atom()
        if not self._accept("**", "^"):
            return base
        exponent = self._signed()
        if abs(exponent) > MAX_EXPONENT:
            raise CalculationError(f"an exponent is larger than {MAX_EXPONENT}")
        if not base and exponent < 0:
            raise CalculationError("division by zero")
        return Decimal(1) if not exponent else self._context.power(base, exponent)

    def _atom(self) -> Decimal:
        kind, token = self._kind, self._token
        if kind == "number":
            self._next()
            return self._context.create_decimal(token)
        if kind == "name":
            self._next()
            return self._context.create_decimal(_PI) if token == "pi" else self._call(token)
        self._expect("(")
        value = self._sum()
        self._expect(")")
        return value

    def _call(self, name: str) -> Decimal:
        function = self._functions.get(name)
        if function is None:
            raise CalculationError(f"there is no function {name!r}; there are {', '.join(sorted(self._functions))}")
        self._expect("(")
        numbers = [self._sum()]
        while self._accept(","):
            numbers.append(self._sum())
        self._expect(")")
        try:
            return function(*numbers)
        except TypeError:
            raise CalculationError(f"{name} does not take {len(numbers)} numbers") from None

    def _divide(self, value: Decimal, other: Decimal) -> Decimal:
        if not other:
            raise decimal.DivisionByZero
        return self._context.divide(value, other)

    def _divide_whole(self, value: Decimal, other: Decimal) -> tuple[Decimal, Decimal]:
        if not other:
            raise decimal.DivisionByZero
        whole, rest = self._context.divmod(value, other)
        if rest and (rest < 0) != (other < 0):
            return self._context.subtract(whole, Decimal(1)), self._context.add(rest, other)
        return whole, rest

    def _whole(self, number: Decimal, rounding: Any) -> Decimal:
        return number.to_integral_value(rounding=rounding, context=self._context)

    def _round(self, number: Decimal, places: Decimal = Decimal(0)) -> Decimal:
        if places != int(places) or abs(places) > _SHOWN_DIGITS:
            raise CalculationError(f"round takes whole places, {_SHOWN_DIGITS} at most")
        return self._context.quantize(number, Decimal(1).scaleb(-int(places)))
