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
    "E125": GOOD.replace('bound.max("head")', 'bound.max("head") / 0'),
    "E124": GOOD.replace("    budget =", "    blend = vx.real(0, 1)\n    budget ="),
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


STATEFUL = """import vortex as vx


class Heat(vx.Algorithm):
    page_size = 16
    heat = vx.state(init=0.0)

    def score(self, q, page):
        return page.heat + 0 * vx.page_age

    def update(self, page, mass):
        return vx.State(heat=page.heat + mass)

    def select(self, score):
        return vx.top_k(score, tokens=512)
"""
CAUSES = {
    "storage type": (GOOD, "hi=k.max(\"token\")", "hi=k.max(\"token\"), dtype=\"fp4\"", "E111"),
    "knob": (GOOD, "vx.integer(", "vx.int(", "E113"),
    "page size": (GOOD, "vx.choice(16, 32, 64)", "vx.choice(7)", "E113"),
    "score's axes": (GOOD, "bound.max(\"head\")", "bound", "E101"),
    "score is no tensor": (GOOD, "bound.max(\"head\")", "1", "E101"),
    "summary": (GOOD, "vx.Summary(lo=", "vx.Summary(_lo=", "E111"),
    "no summary": (GOOD, "return vx.Summary(", "return vx.Scores(", "E112"),
    "head of score()": (GOOD, "def score(self, q, page)", "def score(self, q)", "E111"),
    "head of summarize()": (GOOD, "def summarize(self, k, v)", "def summarize(self, k)", "E111"),
    "head of select()": (GOOD, "def select(self, score)", "def select(self, x)", "E111"),
    "state": (STATEFUL, "vx.state(init=0.0)", "vx.state(0.0)", "E123"),
    "head of update()": (STATEFUL, "update(self, page, mass)", "update(self, page)", "E111"),
    "policy's knob": (GOOD, "    page_size =", "    n = vx.int(1, 2)\n"
                      "    reuse = vx.reuse(layers=n)\n    page_size =", "E113"),
}  # fmt: skip


@pytest.mark.parametrize("name", CAUSES)
def test_only_the_cause_is_reported_not_what_follows_from_it(name: str) -> None:
    text, old, new, code = CAUSES[name]
    assert old in text and parse(text)
    with pytest.raises(ProgramError) as caught:
        parse(text.replace(old, new))
    assert [d.code for d in caught.value.diagnostics] == [code], caught.value.render()


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ('k.min("token")', 'k.minimum("token")', '.min("token")'),
        ('k.max("token")', 'k.amax("token")', '.max("token")'),
        ('k.max("token")', 'k.average("token")', '.mean("token")'),
        ('k.max("token")', 'k.norms("token")', "norm"),
        ('k.max("token")', 'k.l2("token")', '.norm("token")'),
        ("vx.maximum(q * page.lo, q * page.hi)", "vx.max(q * page.lo, q * page.hi)", "vx.maximum("),
        ("vx.integer(", "vx.int(", "vx.integer("),
    ],
)
def test_what_others_call_an_operation_leads_to_its_name(old: str, new: str, hint: str) -> None:
    assert old in GOOD
    with pytest.raises(ProgramError) as caught:
        parse(GOOD.replace(old, new))
    assert hint in (caught.value.diagnostics[0].hint or "")


def test_a_knob_that_nothing_reads_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ProgramError) as caught:
        parse(BAD["E124"])
    (found,) = caught.value.diagnostics
    assert found.code == "E124" and "'blend'" in found.message
    assert BAD["E124"].splitlines()[(found.span or (0,))[0] - 1].strip() == "blend = vx.real(0, 1)"


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
