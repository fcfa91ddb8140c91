"""Numbers as people and models write them, read exactly: separators, fractions, percent, LaTeX."""

from __future__ import annotations

import re
from fractions import Fraction

_MINUS = dict.fromkeys(map(ord, "\u2212\u2012\u2013\u2014\ufe63\uff0d"), "-")
# Between the groups of a long number: LaTeX's {,} and \, and the thin spaces.
_GROUPING = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|[\u2009\u202f\u00a0_'\u2019])(?=\d{3}(?!\d))")
_DIGITS, _EXPONENT = 400, 400
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_POWER = r"(?:[eE][+-]?\d+|\s*(?:\\times|\\cdot|×|\*)\s*10\s*\^\s*\{?\s*[+-]?\d+\s*\}?)"
_FRAC = r"\\[dtc]?frac\s*(?:\{\s*(-?\d{1,200})\s*\}\s*\{\s*(-?\d{1,200})\s*\}|(\d)\s*(\d))"
# Not followed by what makes it a part of an expression: 5x, 5\sqrt{2}, 5^2.
_ENDS = (
    r"(?!\d)(?![.,/]\d)(?!\w*\d)(?![^\W\d_mgshL](?![^\W\d_]))"
    r"(?!\s?(?:\\(?:sqrt|pi|binom)|\^(?!\s*\{?\s*\\circ)|!))"
)
# A number in running text: not a part of a word, of a version (1.2.3) or of a badly grouped number.
_IN_TEXT = re.compile(
    rf"(?<![\w.,/^])(?:(?<![\w)\]}}])[+-])?\s?(?:\$|\\\$|[€£])?\s?(?:{_FRAC}|(?:{_PLAIN})"
    rf"(?:{_POWER})?(?:\s?/\s?(?:{_PLAIN}))?){_ENDS}"
)
_NUMBER = re.compile(rf"({_PLAIN})({_POWER})?")
# A unit: signs, LaTeX text, or at most two words. A letter may be a variable: 5x is no number.
_SHORT = r"(?:[munpkcdMG]?(?:m|g|s|L|l|Hz|W|V|J|N)|km|kg|min|h|hr|hrs|rad|deg|mph|[kKMGT]i?B)"
_WORD = r"(?!(?:or|and|is|to|not|than|if|mod|times|over)\b)[^\W\d_]{2,}"
_UNIT = re.compile(
    rf"\s*(?:\\?%|°|\^\s*\{{?\s*\\circ\s*\}}?)?\s*"
    rf"(?:(?<!\w){_SHORT}|(?<=\d){_SHORT}|\\(?:text|mathrm|textrm|rm)\s*\{{(?:(?!\bor\b|\band\b)[^{{}}])*\}}"
    rf"|(?<=\s){_WORD}(?:\s+{_WORD})?)?(?:\^\{{?[23]\}}?|[²³])?"
    rf"(?:\s?/\s?(?:{_SHORT}|{_WORD}))?\s*"
)


def tidy(text: str) -> str:
    """Text with one kind of minus, and without what groups digits except commas."""
    return _GROUPING.sub("", text.translate(_MINUS))


def number(text: str) -> Fraction | None:
    """The value of a text that is one number, perhaps with a currency or a unit; exactly.

    ``50%`` is 50 and ``5 cm`` is 5: units are dropped. ``1,234`` is grouped, ``12,34`` is nothing:
    it could mean two things. Minus zero is zero.
    """
    body = tidy(text).strip().strip("$").strip().rstrip(".").strip()
    sign = 1
    while body[:1] in ("-", "+"):
        sign, body = (-sign if body[0] == "-" else sign), body[1:].lstrip()
    body = re.sub(r"^(?:\\?\$|[€£])\s*", "", body)
    if body[:1] in ("-", "+"):  # $-5
        sign, body = (-sign if body[0] == "-" else sign), body[1:].lstrip()
    value, rest = _leading(body)
    # The unit is matched in place: what stands before it decides whether a letter is one.
    if value is None or not _UNIT.fullmatch(body, len(body) - len(rest)):
        return None
    return sign * value


def numbers_in(text: str) -> list[tuple[int, int, Fraction]]:
    """Every number in running text: where it begins and ends, and its value."""
    found = []
    for match in _IN_TEXT.finditer(text):
        value = number(match.group().strip())
        if value is not None:
            found.append((match.start(), match.end(), value))
    return found


def _leading(body: str) -> tuple[Fraction | None, str]:
    """The number that a text begins with, and what follows it."""
    frac = re.match(_FRAC, body)
    if frac:
        top, bottom = (int(x) for x in frac.groups() if x is not None)
        return (Fraction(top, bottom) if bottom else None), body[frac.end() :]
    match = _NUMBER.match(body)
    if not match or len(match.group()) > _DIGITS:
        return None, body
    value, rest = _value(match), body[match.end() :]
    whole = re.match(rf"\s*{_FRAC}", rest)  # 1\frac{1}{2}
    mixed = re.match(r"\s+(\d{1,6})\s?/\s?(\d{1,6})(?![\d.,])", rest)  # 1 1/2
    over = re.match(rf"\s?/\s?({_PLAIN})({_POWER})?", rest)
    if value is not None and whole:
        top, bottom = (int(x) for x in whole.groups() if x is not None)
        value = value + Fraction(top, bottom) if bottom else None
        return value, rest[whole.end() :]
    if value is not None and mixed:
        top, bottom = int(mixed[1]), int(mixed[2])
        value = value + Fraction(top, bottom) if bottom else None
        return value, rest[mixed.end() :]
    if value is not None and over:
        below = _value(over) if len(over.group()) <= _DIGITS else None
        return (value / below if below else None), rest[over.end() :]
    return value, rest


def _value(match: re.Match[str]) -> Fraction | None:
    mantissa = Fraction(match[1].replace(",", ""))
    if not match[2]:
        return mantissa
    power = re.findall(r"[+-]?\d+", match[2])[-1]
    # 1e999999999 would fill the memory.
    if len(power) > 4 or abs(int(power)) > _EXPONENT:
        return None
    return mantissa * Fraction(10) ** int(power)
