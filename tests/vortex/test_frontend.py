"""The front end reads programs, and answers anything else with located errors."""

from __future__ import annotations

import random

import pytest

from search_spaces.block_topk import controls, seeds
from vortex import ProgramError, parse
from vortex.errors import VortexError

GOOD = next(s.text for s in seeds() if s.name == "quest")

BAD = {
    "E100": GOOD.replace("def score", "def def score"),
    "E101": GOOD.replace('return bound.max("head")', "return bound"),
    "E102": GOOD.replace('k.min("token")', 'k.minn("token")'),
    "E103": GOOD.replace('bound.max("head")', 'bound.max("heads").max("head")'),
    "E104": GOOD.replace('k.min("token")', '(k * v).min("token")'),
    "E105": GOOD.replace("bound = vx", "bound = [x for x in ()] or vx"),
    "E106": GOOD + "#" * 1_000_000,
    "E107": GOOD.replace(
        "        return bound.max",
        "        " + "bound = bound + bound * 2 - 1; " * 200 + "\n        return bound.max",
    ),
    "E108": GOOD.replace('k.min("token")', "(" * 50 + 'k.min("token")' + ")" * 50),
    "E109": GOOD.replace("bound.max", "bond.max"),
    "E110": GOOD.replace("page.lo", "page.low"),
    "E111": GOOD.replace('bound.max("head")', "bound.max()"),
    "E112": GOOD.replace("def select", "def scored"),
    "E113": GOOD.replace("vx.choice(16, 32, 64)", "vx.choice(7)"),
    "E114": GOOD.replace("vx.top_k(score, tokens=self.budget)", "vx.oracle(tokens=self.budget)"),
    "E115": "import os\n" + GOOD,
    "E118": GOOD.replace("vx.top_k(score, tokens=self.budget)", "score"),
    "E120": GOOD.replace('bound.max("head")', 'bound.max("head") * "x"'),
    "E121": GOOD.replace("    budget =", "    page_size = 16\n    budget ="),
}


@pytest.mark.parametrize("seed", [*seeds(), *controls()], ids=lambda s: s.name)
def test_every_shipped_program_parses_and_states_its_source(seed: object) -> None:
    program = parse(seed.text, reserved=seed.control)  # type: ignore[attr-defined]
    assert program.doc


@pytest.mark.parametrize("code", BAD)
def test_each_kind_of_mistake_has_its_code_and_place(code: str) -> None:
    with pytest.raises(ProgramError) as caught:
        parse(BAD[code], filename="bad.py")
    found = {d.code for d in caught.value.diagnostics}
    assert code in found, caught.value.render()
    rendered = caught.value.render()
    assert "Traceback" not in rendered
    if code != "E106":
        assert "bad.py:" in rendered and "^" in rendered


def test_several_errors_come_at_once_and_do_not_follow_from_each_other() -> None:
    text = GOOD.replace("k.min(", "k.minn(").replace("page.hi", "page.high")
    with pytest.raises(ProgramError) as caught:
        parse(text)
    assert [d.code for d in caught.value.diagnostics] == ["E102", "E110"]


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(ProgramError) as caught:
        parse(GOOD.replace('bound.max("head")', 'bound.maks("head")'))
    assert "max" in (caught.value.diagnostics[0].hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 200_000 + ")" * 200_000,
        "-" * 16_000 + "1",
        "a" + ".b" * 5_000,
        "\x00",
        "",
        "x = " + "9" * 10_000,
        "class A(vx.Algorithm):\n" + " " * 10_000 + "pass",
        "\ud800",
        "import vortex as vx\nclass A(vx.Algorithm):\n    page_size = 1e400\n",
    ],
)
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(ProgramError):
        parse(text)


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "__import__('os').system('true')",
        "x = (lambda: 1)()",
        "@property\n    def f(self): return 1",
        "def summarize(self, k: print('x'), v): return 1",
        "def score(self, q, page=open('/etc/passwd')): return 1",
        "y = f'{1}'",
        "z = page_size.__class__",
        "exec('1')",
    ],
)
def test_python_that_is_not_the_language_is_refused(line: str) -> None:
    text = GOOD.replace("    budget =", f"    {line}\n    budget =")
    with pytest.raises(ProgramError):
        parse(text)


def test_ten_thousand_mutated_programs_give_programs_or_located_errors() -> None:
    rng = random.Random(0)
    texts = [s.text for s in seeds()]
    pieces = [*"()[]{}.,:=+-*/|\"'\\\n\t @#_0159", "self", "vx.", "page", "score", "max", "None",
              "lambda", "import", "class", "def", "return", "\x00", "é", "1e999"]  # fmt: skip
    outcomes = {"program": 0, "error": 0}
    for _ in range(10_000):
        text = rng.choice(texts)
        for _ in range(rng.randint(1, 4)):
            at, kind = rng.randrange(len(text)), rng.random()
            end = min(len(text), at + rng.randint(0, 12))
            if kind < 0.4:
                text = text[:at] + rng.choice(pieces) + text[at:]
            elif kind < 0.7:
                text = text[:at] + text[end:]
            else:
                other = rng.choice(texts)
                cut = rng.randrange(len(other))
                text = text[:at] + other[cut : cut + rng.randint(1, 60)] + text[end:]
        try:
            parse(text)
            outcomes["program"] += 1
        except ProgramError as error:
            assert error.diagnostics and error.render()
            outcomes["error"] += 1
    assert min(outcomes.values()) > 100


def test_control_characters_cannot_reach_the_terminal() -> None:
    with pytest.raises(VortexError) as caught:
        parse(GOOD.replace("bound.max", "bound.\x1b[31mmax"))
    assert "\x1b" not in caught.value.render()
