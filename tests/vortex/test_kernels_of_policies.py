"""Kernels of states, shared lists, rankings kept over steps, projections and int4 fields."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

GPU = torch.cuda.is_available()
pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu] if GPU else []

from tests.vortex.kernel_parity import MLA, Bed, Case, bed, disagreements, scaled  # noqa: E402
from vortex.compile import compile_text  # noqa: E402
from vortex.reference import reserved  # noqa: E402
from vortex.triton.arrays import Shapes  # noqa: E402
from vortex.triton.backend import append_tokens, route_again  # noqa: E402
from vortex.triton.kernels import kernels  # noqa: E402
from vortex.triton.tiles import Unfused  # noqa: E402

DEVICE = "cuda" if GPU else "cpu"
SMALL = Case(lengths=(1, 100, 215), workload=1024, device=DEVICE)
LATENT = scaled(MLA, lengths=(1, 100, 215), workload=1024, device=DEVICE)
BOTH = pytest.mark.parametrize("case", [SMALL, LATENT], ids=["gqa", "mla"])
WIDE = scaled(SMALL, group=6)

PROGRAM = """import vortex as vx
class P(vx.Algorithm):
    page_size = 16
    {declared}
    def summarize(self, k, v):
        return vx.Summary(c=k.mean("token"){fields})
    def score(self, q, page):
        match = vx.dot(q, page.c, "dim").max("head")
        return {score}
{update}
    def select(self, score):
        return vx.top_k(score, tokens=512) | vx.sinks(1) | vx.recent(2)
"""


def text_of(declared: str = "", fields: str = "", score: str = "match", update: str = "") -> str:
    score = score if "match" in score else f"{score} + 0.1 * match"  # every field is read
    return PROGRAM.format(declared=declared, fields=fields, score=score, update=update)


def wrong(text: str, case: Case, files: Path | None = None) -> list[str]:
    return disagreements(bed(compile_text(text, files=files), case))


def lists(b: Bed) -> list[set[int]]:
    """Logical pages of every row and KV head."""
    found = []
    for row in range(len(b.case.lengths)):
        logical = {int(p): i for i, p in enumerate(b.table[row])}
        for head in range(b.case.kv_heads):
            count = int(b.buffers.counts[row, head])
            found.append({logical[int(p)] for p in b.buffers.pages[row, head, :count]})
    return found


@BOTH
@pytest.mark.parametrize("how", ["mean", "max", "sum"])
def test_one_list_for_all_kv_heads(how: str, case: Case) -> None:
    for score in ("match", 'match.softmax("page").smooth(radius=1)'):
        text = text_of(f'per_head = vx.shared("{how}")', score=score)
        made = bed(compile_text(text), case)
        assert disagreements(made) == []
        found, heads = lists(made), case.kv_heads
        assert all(a == found[i // heads * heads] for i, a in enumerate(found))


def test_a_shared_threshold_cuts_the_joined_score() -> None:
    text = text_of('per_head = vx.shared("mean")', score='match.softmax("page")')
    text = text.replace("vx.top_k(score, tokens=512)",
                        "vx.threshold(score, above=0.05, max_tokens=512)")  # fmt: skip
    assert wrong(text, SMALL) == []


def test_a_shared_list_chosen_by_its_own_launch_is_the_same() -> None:
    from dataclasses import replace

    candidate = compile_text(text_of('per_head = vx.shared("sum")'))
    schedule = replace(SMALL.schedule, score=replace(SMALL.schedule.score, joined=False))
    one, two = bed(candidate, SMALL), bed(candidate, scaled(SMALL, schedule=schedule))
    for made in (one, two, one):  # and the counter is left as it was found
        made.step()
    assert lists(one) == lists(two)


@BOTH
def test_a_state_is_read_where_it_is_scored(case: Case) -> None:
    update = "    def update(self, page, mass):\n        return vx.State(old=mass, heat=mass)"
    declared = "old = vx.state(init=1.0)\n    heat = vx.state(init=0.0)"
    for score in ("match + 3 * page.heat", "page.heat.smooth(radius=2)"):
        assert wrong(text_of(declared, score=score, update=update), case) == []


def test_states_begin_at_their_first_value() -> None:
    from vortex.triton.backend import Fields

    update = "    def update(self, page, mass):\n        return vx.State(heat=mass)"
    text = text_of("heat = vx.state(init=0.5)", score="match + page.heat", update=update)
    made = kernels(compile_text(text), Shapes(2, 64, 64, (0, 64), 4, (64, 64)))
    kept = Fields.of_layer(
        made, 0, pages=9, rows=2, width=4, kv_heads=2, device=torch.device(DEVICE)
    )
    assert kept.rows["state0"].shape == (2, 2, 4)
    assert bool((kept.rows["state0"] == 0.5).all())


@pytest.mark.parametrize("shared", ["", '\n    per_head = vx.shared("max")'])
def test_steps_that_do_not_rank_list_the_picks_and_what_is_reserved_now(shared: str) -> None:
    made = bed(compile_text(text_of(f"reuse = vx.reuse(layers=1, steps=4){shared}")), SMALL)
    assert disagreements(made) == []
    first, old = lists(made), made.case.lengths
    new = tuple(n + 9 for n in old)
    made.lengths.copy_(torch.tensor(new))
    route_again(made.kernels, SMALL.schedule, made.fields, made.table, made.lengths, made.buffers)
    for at, found in enumerate(lists(made)):
        row = at // SMALL.kv_heads
        picks = first[at] - reserved(old[row], page_size=16, sinks=1, recent=2)
        now = reserved(int(made.lengths[row]), page_size=16, sinks=1, recent=2)
        assert found == picks | now


@pytest.mark.parametrize("shared", ["", '\n    per_head = vx.shared("max")'])
def test_rows_of_one_launch_rank_or_list_again_each_by_its_own_slot(shared: str) -> None:
    made = bed(compile_text(text_of(f"reuse = vx.reuse(layers=1, steps=4){shared}")), SMALL)
    rows, old = len(made.case.lengths), made.case.lengths
    slots = made.fields.rows["picks"].new_zeros(rows + 3, *made.fields.rows["picks"].shape[1:])
    fields = replace(made.fields, rows=made.fields.rows | {"picks": slots})
    made = replace(made, fields=fields)
    made.buffers.slots.copy_(torch.arange(rows).flip(0) + 3)
    assert disagreements(made) == []  # all rank
    first = lists(made)
    again = torch.arange(rows, device=DEVICE) % 2 == 1
    made.buffers.ranks.copy_(~again)
    made.lengths.copy_(torch.tensor([n + 9 for n in old]))
    kept = slots.clone()
    made.step()
    for at, found in enumerate(lists(made)):
        row = at // SMALL.kv_heads
        if again[row]:
            picks = first[at] - reserved(old[row], page_size=16, sinks=1, recent=2)
            now = reserved(int(made.lengths[row]), page_size=16, sinks=1, recent=2)
            assert found == picks | now
    unused = torch.cat([slots[:3], slots[made.buffers.slots[again].long()]])
    assert torch.equal(unused, torch.cat([kept[:3], kept[made.buffers.slots[again].long()]]))
    assert not made.buffers.counter.any()


def test_a_ranking_forgets_the_picks_of_the_one_before() -> None:
    made = bed(compile_text(text_of("reuse = vx.reuse(layers=1, steps=2)")), SMALL)
    made.fields.rows["picks"].fill_(255)
    assert disagreements(made) == []
    before = lists(made)
    route_again(made.kernels, SMALL.schedule, made.fields, made.table, made.lengths, made.buffers)
    assert lists(made) == before


@BOTH
@pytest.mark.parametrize(
    ("stored", "into"),
    [
        ('k.project("dim", into={n}, name="chan", matrix={m})', 4),
        ('k.project("dim", into={n}, name="chan", matrix={m})', 24),
        ('k.mean("token").project("dim", into={n}, name="chan", matrix={m})', 160),
        ('k.split("token", into=4, name="sub").mean("token")'
         '.project("dim", into={n}, name="chan", matrix={m}).max("sub")', 20),
    ],
    ids=["few", "tokens", "page", "parts"],
)  # fmt: skip
def test_keys_times_a_matrix(stored: str, into: int, case: Case) -> None:
    matrix = "vx.random_matrix(seed=2)"
    mine = f'q.project("dim", into={into}, name="chan", matrix={matrix})'
    token = '.max("token")' if stored.startswith("k.project") else ""
    text = text_of(
        fields=", low=" + stored.format(n=into, m=matrix),
        score=f'vx.dot({mine}, page.low, "chan").max("head"){token}',
    )
    assert wrong(text, case) == []


@pytest.mark.parametrize("into", [4, 40])
def test_fields_times_a_matrix_while_scoring(into: int) -> None:
    low = f'project("dim", into={into}, name="chan", matrix=vx.random_matrix(seed=1))'
    text = text_of(score=f'vx.dot(q.{low}, page.c.{low}, "chan").max("head")')
    for case in (SMALL, WIDE, LATENT):
        assert wrong(text, case) == []


def test_two_projections_in_a_row_and_one_along_tokens() -> None:
    low = 'project("dim", into=8, name="chan", matrix=vx.random_matrix(seed=1))'
    up = 'project("chan", into=32, name="back", matrix=vx.random_matrix(seed=2))'
    along = 'k.project("token", into=3, name="mix", matrix=vx.random_matrix(seed=3)).max("mix")'
    text = text_of(
        fields=f', two=k.{low}.{up}.mean("token"), mix={along}',
        score='page.two.max("back") + vx.dot(q, page.mix, "dim").max("head")',
    )
    assert wrong(text, SMALL) == []


def test_each_layer_multiplies_by_its_own_stored_matrix(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    save_file({"basis": torch.randn(4, 64, 24, generator=generator)}, tmp_path / "low.safetensors")
    low = 'project("dim", into=24, name="chan", ' \
          'matrix=vx.load("low.safetensors", "basis", layer=True))'  # fmt: skip
    text = text_of(fields=f', low=k.{low}.mean("token")',
                   score=f'vx.dot(q.{low}, page.low, "chan").max("head")')  # fmt: skip
    assert wrong(text, SMALL, tmp_path) == []
    made = bed(compile_text(text, files=tmp_path), SMALL)
    made.case = scaled(SMALL, layer=1)  # the fields are those of layer 2
    assert any("field 'low'" in line for line in disagreements(made))


def test_a_page_completed_by_a_step_is_projected_as_it_is_appended() -> None:
    low = 'k.project("dim", into=4, name="chan", matrix=vx.random_matrix(seed=2)).mean("token")'
    text = text_of(fields=f", low={low}", score='match + page.low.max("chan")')
    made = bed(compile_text(text), scaled(SMALL, lengths=(31, 95)))
    new = torch.randn(2, 2, 2, 64, generator=torch.Generator().manual_seed(5))
    new_k, new_v = (x.to(made.table.device, torch.bfloat16) for x in new)
    made.lengths.add_(1)
    append_tokens(made.kernels, made.cache, made.fields, made.table, made.lengths, new_k, new_v)
    made.case = scaled(made.case, lengths=(32, 96))
    assert disagreements(made) == []


@BOTH
@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ('k.norm("dim").mean("token")', "page.x"),
        ('k.norm("dim")', 'page.x.max("token")'),
        ("k", 'vx.dot(q, page.x, "dim").max("token").max("head")'),
        ('k.take("dim", first=1, count=3).mean("token")',
         'vx.dot(q.take("dim", first=1, count=3), page.x, "dim").max("head")'),
        ('k.project("dim", into=4, name="chan", matrix=vx.random_matrix(seed=2))',
         'page.x.max("chan").max("token")'),
        ('k.project("dim", into=24, name="chan", matrix=vx.random_matrix(seed=2))',
         'page.x.max("chan").max("token")'),
    ],
    ids=["one", "tokens", "keys", "odd", "few", "columns"],
)  # fmt: skip
def test_int4_fields_of_any_axes(stored: str, read: str, case: Case) -> None:
    text = text_of(fields=f', x={stored}, dtype="int4"', score=f"match + {read}")
    assert wrong(text, case) == []


def test_int4_fields_whose_bytes_two_tokens_would_share_are_refused() -> None:
    text = text_of(fields=', x=k.take("dim", first=1, count=3), dtype="int4"',
                   score='match + page.x.max("dim").max("token")')  # fmt: skip
    with pytest.raises(Unfused, match="even run"):
        bed(compile_text(text), SMALL)


@pytest.mark.parametrize("case", [SMALL, WIDE, LATENT], ids=["gqa", "group 6", "mla"])
def test_tokens_of_long_pages_beside_columns(case: Case) -> None:
    text = text_of(fields=", keys=k",
                   score='vx.dot(q, page.keys, "dim").logsumexp("token").sum("head")')  # fmt: skip
    assert wrong(text.replace("page_size = 16", "page_size = 32"), case) == []
    text = text_of(
        fields=', low=k.project("dim", into=4, name="chan", matrix=vx.random_matrix(seed=2))',
        score='page.low.max("chan").softmax("page").max("token")',
    )
    assert wrong(text.replace("page_size = 16", "page_size = 32"), case) == []
