"""Sums of money, and numbers."""

import re
from collections.abc import Iterator
from decimal import Decimal

from price_parser import Price

from services.nlu.core.entities.spans import Entity

_SYMBOLS = {
    "US$": "USD", "CA$": "CAD", "C$": "CAD", "AU$": "AUD", "A$": "AUD", "NZ$": "NZD", "HK$": "HKD", "S$": "SGD",
    "R$": "BRL", "MX$": "MXN", "$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "￥": "JPY", "₹": "INR", "₽": "RUB",
    "₩": "KRW", "₺": "TRY", "₴": "UAH", "₪": "ILS", "₫": "VND", "฿": "THB", "₦": "NGN", "₱": "PHP", "zł": "PLN",
    "Kč": "CZK",
}  # fmt: skip
_WORDS = {
    "euro": "EUR", "euros": "EUR", "dollar": "USD", "dollars": "USD", "bucks": "USD", "pound": "GBP", "pounds": "GBP",
    "quid": "GBP", "yen": "JPY", "yuan": "CNY", "rupee": "INR", "rupees": "INR", "rouble": "RUB", "roubles": "RUB",
    "ruble": "RUB", "rubles": "RUB", "franc": "CHF", "francs": "CHF", "franken": "CHF", "zloty": "PLN", "usd": "USD",
    "eur": "EUR", "gbp": "GBP", "chf": "CHF", "jpy": "JPY", "cad": "CAD", "aud": "AUD", "inr": "INR",
}  # fmt: skip
_CODES = tuple(
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
    "CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG "
    "HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA "
    "MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD "
    "RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD "
    "UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWL".split()
)
_WITHOUT_DECIMALS = frozenset("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split())
_DIGITS = r"(?:\d{1,3}(?:[.,'\u2019 \u00a0\u202f]\d{3})+(?!\d)|\d{1,15})(?:[.,]\d{1,4})?"
_SIGN = "|".join(re.escape(symbol) for symbol in sorted(_SYMBOLS, key=len, reverse=True))
_CODE = "|".join(_CODES)
_WORD = "|".join(sorted(_WORDS, key=len, reverse=True))
_AMOUNT = re.compile(
    rf"(?<![\w.,])(?P<before>{_SIGN}|(?:{_CODE})(?![A-Za-z]))\s?(?P<first>{_DIGITS})(?![\w%]|[.,]\d)"
    rf"|(?<![\w])(?<!\d[.,:/-])(?P<second>{_DIGITS})\s?(?P<after>{_SIGN}|(?:{_CODE}|(?i:{_WORD}))(?!\w))"
)
_NUMBER = re.compile(
    r"(?<!\w)(?<!\d[.,:/-])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,15})(?:[.,]\d{1,9})?(?!\w)(?![.,:/-]\d)", re.ASCII
)
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def amounts(text: str) -> Iterator[Entity]:
    """Sums of money with their currency; the value is `12.50 EUR`.

    Separators are read as price-parser reads them: three digits after the only separator are thousands. A bare `$` is
    the US dollar, `¥` the yen. There are two decimals at least, save in currencies that have none.
    """
    for match in _AMOUNT.finditer(text):
        digits = match["first"] or match["second"]
        number = Price.fromstring(digits).amount
        if number is not None:
            code = _code(match["before"] or match["after"])
            yield Entity("amount", match.group(), match.start(), match.end(), f"{_money(number, code)} {code}")


def numbers(text: str) -> Iterator[Entity]:
    """Numbers in digits, signs with them; the value has no separators but the decimal point, and no zeros to spare.

    Digits that are part of a word, a time, a version or a date by slashes are none. Number words are not read.
    """
    for match in _NUMBER.finditer(text):
        start = match.start()
        if text[:start].endswith(("-", "−")) and (start == 1 or text[start - 2] in " \t\n("):
            start -= 1
        digits = match.group()
        plain = digits.replace(",", "") if _THOUSANDS.fullmatch(digits) else digits.replace(",", ".")
        value = _plain(Decimal(plain))
        sign = "-" if start < match.start() and value != "0" else ""
        yield Entity("number", text[start : match.end()], start, match.end(), sign + value)


def _code(currency: str) -> str:
    return _SYMBOLS.get(currency) or _WORDS.get(currency.lower()) or currency


def _money(number: Decimal, code: str) -> str:
    exponent = number.as_tuple().exponent
    if code not in _WITHOUT_DECIMALS and isinstance(exponent, int) and exponent > -2:
        number = number.quantize(Decimal("0.01"))
    return f"{number:f}"


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
