"""What cannot be carried over into the language is refused in its place."""

from __future__ import annotations

import pytest

from tests.vortex.submissions import PLAIN, RANK_MEAN, SUBMISSIONS, flow
from vortex.errors import ProgramError
from vortex.importer import import_vflow

SUBTLE = {
    "E304 no flow": ("x = 1\n", "no class here"),
    "E304 no create_cache": (
        SUBMISSIONS["block_sparse"].replace("create_cache", "make_cache"),
        "no method create_cache()",
    ),
    "E304 undeclared": (SUBMISSIONS["block_sparse"].replace('{"mid"', '{"other"'), "cache['mid']"),
    "E304 never ranks": (
        SUBMISSIONS["block_sparse"].replace("self.pick(score, o, ctx=ctx)", "pass"),
        "never ends",
    ),
    "E304 syntax": (SUBMISSIONS["block_sparse"].replace("def __init__", "def def"), "syntax"),
    "E305 loop": (
        flow(PLAIN, "for i in (1, 2): self.pick(q, o, ctx=ctx)"),
        "'For' in forward_indexer()",
    ),
    "E305 arithmetic": (flow(PLAIN, "self.pick(q * 2, o, ctx=ctx)"), "q * 2"),
    "E305 unknown constant": (
        SUBMISSIONS["lserve"].replace("k=self.PART", "k=open('/x').read()"),
        "open('/x').read()",
    ),
    "E306 unknown op": (
        flow(PLAIN + "\nself.conv = torch.nn.Linear(4, 4)", RANK_MEAN),
        "torch.nn.Linear",
    ),
    "E306 reused op": (
        flow(PLAIN, RANK_MEAN.replace("score =", "again = self.q_mean(q, ctx=ctx)\nscore =")),
        "'self.q_mean' is called twice",
    ),
    "E306 other side": (
        flow(PLAIN + "\nself.c_two = CMean(dim=1)", RANK_MEAN.replace("q_mean(q", "c_two(q")),
        "'Mean' of the cache side is called here",
    ),
    "E306 torch": (flow(PLAIN, RANK_MEAN.replace("self.q_mean(q", "torch.topk(q")), "torch.topk"),
    "E307 sub-pages": (SUBMISSIONS["lserve"].replace("PART = 4", "PART = 5"), "MaxInterleave"),
    "E307 shape": (SUBMISSIONS["lserve"].replace("block_size // 4", "block_size // 8"), "declared"),
    "E307 not a score": (flow(PLAIN, "self.pick(q, o, ctx=ctx)"), "head, dim"),
    "E307 keys with values": (
        flow(
            PLAIN + "\nself.c_v = CMean(dim=1)\nself.join = Multiply()",
            'self.join(cache["mid"], cache["val"], ctx=ctx)',
            cache='self.c_mean(cache["k"], cache["mid"], loc=loc, ctx=ctx)\n'
            'self.c_v(cache["v"], cache["val"], loc=loc, ctx=ctx)',
            shapes='"mid": (1, head_dim), "val": (1, head_dim)',
        ),
        "Multiply",
    ),
    "E307 heads by heads": (
        flow(PLAIN, RANK_MEAN.replace('cache["mid"]', "q").replace("(short", "(q")),
        "twice",
    ),
    "E307 sum of a mask": (
        flow(
            PLAIN + "\nself.mask = MaskSlice(0, 8, 2)\nself.h = Sum(dim=1)",
            "self.h(self.mask(q, ctx=ctx), ctx=ctx)",
        ),
        "repeats along 'head'",
    ),
    "E309 running average": (
        flow(
            PLAIN + "\nself.old = Load()\nself.mix = Add(alpha=0.5)\nself.keep = Save()\n"
            "self.zero = CFill(alpha=0.0)",
            """
            now = self.gemm(self.q_mean(q, ctx=ctx), cache["mid"], ctx=ctx)
            run = self.mix(self.old(cache["run"], ctx=ctx), now, ctx=ctx)
            self.keep(run, cache["run"], ctx=ctx)
            self.pick(run, o, ctx=ctx)
            """,
            cache='self.c_mean(cache["k"], cache["mid"], loc=loc, ctx=ctx)\n'
            'self.zero(cache["run"], loc=loc, ctx=ctx)',
            shapes='"mid": (1, head_dim), "run": (1, 1)',
        ),
        "Save",
    ),
    "E309 never written": (SUBMISSIONS["quest"].replace('cache["max"], ctx', 'cache["x"], ctx'),
                           "cache['x']"),
    "E309 keys per token": (
        SUBMISSIONS["block_sparse"].replace('short, cache["mid"]', 'short, cache["k"]'),
        "cache['k']",
    ),
    "E309 after softmax": (
        SUBMISSIONS["gqa_softmax"].replace("self.soft(", "soft = self.soft("),
        "'score' was overwritten",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SUBTLE)
def test_refusals_are_located(case: str) -> None:
    source, mention = SUBTLE[case]
    with pytest.raises(ProgramError) as caught:
        import_vflow(source, filename="sub.py")
    found = caught.value.diagnostics[0]
    assert found.code == case.split(maxsplit=1)[0]
    assert mention in caught.value.render()
    if "no flow" not in case:
        assert found.span is not None
        place = f"sub.py:{found.span.line}:{found.span.col}: error[{found.code}]"
        assert caught.value.render().startswith(place)


def test_refusal_points_at_the_line() -> None:
    source, _ = SUBTLE["E309 running average"]
    with pytest.raises(ProgramError) as caught:
        import_vflow(source)
    span = caught.value.diagnostics[0].span
    assert span is not None
    assert source.splitlines()[span.line - 1].strip().startswith("self.keep(")


@pytest.mark.parametrize(
    "config",
    [
        {"vortex_block_size": 24},
        {"vortex_topk_ratio": 2},
        {"vortex_layers_skip": [3]},
        {"vortex_schedule_policy": "return 3;"},
        {"vortex_topk_val": "many"},
        {"vortex_dtype": "float8"},
    ],
)
def test_configurations_without_an_equivalent(config: dict[str, object]) -> None:
    with pytest.raises(ProgramError) as caught:
        import_vflow(SUBMISSIONS["quest"], config=config)
    assert caught.value.code == "E308"
