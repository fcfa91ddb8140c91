"""What a reply is worth: pure functions that never raise, and give 0 to what is ambiguous."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal, get_args

from evals.engine.numbers import number, numbers_in, tidy

ScorerName = Literal["exact", "contains", "number", "boxed", "choice"]
SCORERS: tuple[str, ...] = get_args(ScorerName)
Found = list[tuple[int, int, Fraction]]
_LONGEST = 1 << 17  # characters of a reply that are read, from its end
_TWO = re.compile(r"\s*(?:,?\s*(?:or|and)\b|,|;|&|\||(?:\\text\s*\{)\s*(?:or|and)\s*\})\s*$", re.I)
_MARK = re.compile(r"####|\banswer\b[^.\n\d]{0,40}?(?:\bis\b|:|=)[\s:=*]*", re.IGNORECASE)
_LETTER = r"[(\[*]*([A-J])(?:[)\].:*]|(?![\w']))"
_CHOSEN = re.compile(
    r"\b(?:answer|choice|option)\b[\s*]*(?:is|:|=)*[\s*:]*(?:option|choice)?\s*" + _LETTER,
    re.IGNORECASE,
)
_ALONE = re.compile(r"[\s(\[*]*([A-Ja-j])[\s)\].:*]*")
_OPENS = re.compile(r"[\s*]*(?:\(([A-J])\)|([A-J])[).:])(?=\s|$)")


def score(scorer: str, reply: str, answers: Sequence[str]) -> float:
    """From 0 to 1; several answers: any of them, or for ``contains`` the share that is there.

    What a model thinks between ``<think>`` and ``</think>`` is no answer; nor is anything after a
    thought that was never finished.
    """
    said = spoken(reply)
    if scorer == "contains":
        return sum(_holds(said, a) for a in answers) / len(answers) if answers else 0.0
    stated = answer_of(scorer, said)
    if stated is None:
        return 0.0
    wanted = {canonical(scorer, answer) for answer in answers} - {None}
    return float(stated in wanted)


def answer_of(scorer: str, reply: str) -> str | None:
    """What a reply states as its answer, in one form for all that mean the same; None for none."""
    found = _STATED.get(scorer)
    return found(spoken(reply)) if found else None


def canonical(scorer: str, answer: str) -> str | None:
    """A right answer in that form; None if this scorer can never find it in a reply."""
    if scorer == "contains":
        return _folded(answer) or None
    if scorer == "number":
        value = number(answer)
        return None if value is None else str(value)
    if scorer == "boxed":
        return _content(answer)
    if scorer == "choice":
        match = _ALONE.fullmatch(answer)
        return match[1].upper() if match else None
    return _spaced(answer) if scorer == "exact" else None


def spoken(reply: str) -> str:
    """A reply without its thoughts, its end if it is very long."""
    text = reply[-_LONGEST:]
    _, mark, after = text.rpartition("</think>")
    text = after if mark else text
    return text.partition("<think>")[0]


def last_box(text: str) -> str | None:
    r"""The content of the last ``\boxed`` or ``\fbox``, braces balanced.

    Returns:
        None if there is none; an empty text for one that is cut off.
    """
    at = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if at < 0:
        return None
    body = re.sub(r"^\\(?:boxed|fbox)\s*", "", text[at:])
    if not body.startswith("{"):
        bare = re.match(r"[^\s{}$]+", body)
        return bare.group().rstrip(".,") if bare else ""
    depth = 0
    for i, char in enumerate(body):
        if i and body[i - 1] == "\\":
            continue  # \{ is a sign
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return body[1:i]
    return ""


# -- what a reply states ----------------------------------------


def _exact(said: str) -> str | None:
    return _spaced(said) or None


def _number(said: str) -> str | None:
    """A number alone; else in the last box; else after the last mark, as 'the answer is'; else the
    last of the text."""
    alone = number(said)
    if alone is not None:
        return str(alone)
    inside = last_box(said)
    if inside is not None:
        value = number(_inner(inside))
        return None if value is None else str(value)
    text = tidy(said)
    for mark in reversed(list(_MARK.finditer(text))):
        sentence = re.split(r"\n\s*\n|[.!?](?=\s|$)", text[mark.end() :], maxsplit=1)[0]
        found = numbers_in(sentence)
        if found:
            return _only(sentence, found)
    found = numbers_in(text)
    return _unrivalled(text, found) if found else None


def _only(sentence: str, found: Found) -> str | None:
    """The one number of a sentence, remarks in brackets apart; what its last equation gives."""
    short = re.sub(r"(?<=\s)\([^()]*\)", "", sentence)
    found = numbers_in(short) or found
    if "=" in short:
        return _unrivalled(short, found)
    values = {value for *_, value in found}
    return str(found[0][2]) if len(values) == 1 else None


def _unrivalled(text: str, found: Found) -> str | None:
    """The last number, unless it ends a list of different ones."""
    start, _, value = found[-1]
    for _, end, other in found[-2:-1]:
        if other != value and _TWO.fullmatch(text[end:start]):
            return None
    return str(value)


def _boxed(said: str) -> str | None:
    """The last box; without one, the final number."""
    inside = last_box(said)
    return _number(said) if inside is None else _content(inside)


def _choice(said: str) -> str | None:
    """A letter alone; else in the last box; else after 'answer is'; else one that opens the
    reply, as 'B) ...'."""
    inside = last_box(said)
    if inside is not None:
        return canonical("choice", _inner(inside))
    alone = _ALONE.fullmatch(said)
    if alone:
        return alone[1].upper()
    named = [m for m in _CHOSEN.finditer(said) if m[1].isupper()]
    if named:
        last = named[-1]
        rival = re.match(r"[\s*]*(?:,|/|or\b|and\b)\s*" + _LETTER, said[last.end() :])
        return None if rival and rival[1] != last[1] else last[1]
    opens = _OPENS.match(said)
    if not opens:
        return None
    letter = opens[1] or opens[2]
    others = {m[1] or m[2] for m in re.finditer(_OPENS.pattern, said, re.MULTILINE)}
    return letter if others <= {letter} else None


_STATED: dict[str, Callable[[str], str | None]] = {
    "exact": _exact, "number": _number, "boxed": _boxed, "choice": _choice,
    "contains": lambda said: _folded(said) or None,
}  # fmt: skip


# -- forms -------------------------------------------------------


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _folded(text: str) -> str:
    return _spaced(tidy(text)).casefold()


def _holds(said: str, answer: str) -> bool:
    """Whether the answer is there, not as a part of a longer word or number."""
    wanted = _folded(answer)
    if not wanted:
        return False
    before = r"(?<![\w])(?<!\d[.,])" if wanted[0].isalnum() else ""
    if wanted[0].isdigit():
        before += r"(?<!(?<![\w)])-)"  # 12 is not in -12
    after = r"(?!\w)(?![.,]\d)" if wanted[-1].isalnum() else ""
    return re.search(before + re.escape(wanted) + after, _folded(said)) is not None


def _inner(text: str) -> str:
    """A box's content without dollars, a name that is set equal, and words for layout."""
    text = tidy(text).strip().strip("$").strip()
    text = re.sub(r"\\(?:left|right|displaystyle|bigl|bigr|big)(?![a-zA-Z])", "", text)
    wrapped = re.fullmatch(r"\\(?:text|mathrm|textbf|mathbf|textrm)\s*\{([^{}]*)\}", text.strip())
    text = wrapped[1] if wrapped else text
    return re.sub(r"^\s*[a-zA-Z](?:_\{?\w+\}?)?\s*=\s*", "", text).strip()


def _content(text: str) -> str | None:
    """A box's content: its value where it is a number, else LaTeX without what does not mean
    anything."""
    text = _inner(text)
    value = number(text)
    if value is not None:
        return str(value)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\w)\s*(?=[\w{])", r"\\frac{\1}", text)
    text = re.sub(r"(\\frac\{[^{}]*\})\s*(\w)", r"\1{\2}", text)
    text = re.sub(r"\\sqrt\s*(\w)(?!\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"\\(?:text|mathrm|textrm|mbox)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[,;:!]|\\ |~|\\(?:quad|qquad)(?![a-zA-Z])|\^\s*\{?\\circ\}?", "", text)
    text = re.sub(r"\s+", "", text).rstrip(".")
    return text or None
