"""Every algorithm of the library chooses the pages of its paper's rule, written in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import search_spaces
from vortex import compile_text
from vortex.reference import Decoder

Array = npt.NDArray[np.float64]
LIBRARY = Path(search_spaces.__file__).parent / "block_topk" / "library"
SIZE, PAGES, HEADS, GROUP, DIM, BUDGET = 16, 80, 2, 3, 64, 640
SCALE = DIM**-0.5
TOKENS = SIZE * PAGES + 5


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


def paged(x: Array) -> Array:
    return x[: SIZE * PAGES].reshape(PAGES, SIZE, DIM)


def means(q: Array, k: Array) -> Array:
    """[head, page]"""
    return np.asarray(q @ paged(k).mean(1).T)


def tokenwise(q: Array, k: Array) -> Array:
    """[head, page, token]"""
    return np.einsum("hd,ptd->hpt", q, paged(k))


def bound(q: Array, lo: Array, hi: Array) -> Array:
    """[head, page] for lo, hi [page, dim]"""
    return np.maximum(q[:, None] * lo, q[:, None] * hi).sum(-1)


def quest(q: Array, k: Array) -> Array:
    return bound(q, paged(k).min(1), paged(k).max(1)).max(0)


def signs(seed: int, rows: int, columns: int) -> Array:
    """The fixed +-1 matrix of the language, from its definition, one entry at a time."""
    out = np.empty((rows, columns))
    for i in range(rows * columns):
        x = i + (seed + 1) * 0x9E3779B1
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
        out.flat[i] = -1.0 if (x >> 17) & 1 else 1.0
    return out / np.sqrt(columns)


def projected(q: Array, k: Array, seed: int, columns: int) -> Array:
    m = signs(seed, DIM, columns)
    return np.einsum("hc,ptc->hpt", q @ m, paged(k) @ m)


def subs(k: Array, parts: int) -> Array:
    return paged(k).reshape(PAGES, parts, SIZE // parts, DIM)


def lserve(q: Array, k: Array) -> Array:
    cut = subs(k, 2)
    return np.max([bound(q, cut[:, s].min(1), cut[:, s].max(1)).max(0) for s in range(2)], 0)


def infllm(q: Array, k: Array) -> Array:
    per = [softmax(q @ subs(k, 2)[:, s].mean(1).T * SCALE, 1).sum(0) for s in range(2)]
    best = np.max(per, 0)
    return np.array([best[max(0, i - 1) : i + 2].max() for i in range(PAGES)])


def sparq(q: Array, k: Array) -> Array:
    chan = np.argsort(-np.abs(q).sum(0), kind="stable")[:16]
    return np.einsum("hd,ptd->hpt", q[:, chan], paged(k)[..., chan]).max((0, 2))


def spread(k: Array) -> Array:
    return np.linalg.norm(paged(k) - paged(k).mean(1, keepdims=True), axis=-1).max(1)


def hashed(q: Array, k: Array) -> Array:
    m = signs(3, DIM, 64)
    return np.einsum("hc,ptc->hpt", np.sign(q @ m), np.sign(paged(k) @ m)).max((0, 2))


def second_order(q: Array, k: Array) -> Array:
    return (means(q, k) + 0.5 * SCALE * (q**2 @ paged(k).var(1).T)).max(0)


def votes(q: Array, k: Array) -> Array:
    """softmax over pages of the best token, [head, page]"""
    return softmax(tokenwise(q, k).max(2) * SCALE, 1)


def centroid_softmax(q: Array, k: Array) -> Array:
    return softmax(means(q, k) * SCALE, 1).max(0)


def dsa(q: Array, k: Array) -> Array:
    return np.maximum(projected(q, k, 2, 32), 0).sum(0).max(1)


def masked(q: Array, k: Array) -> Array:
    return quest(np.where(np.arange(DIM) < 8, 0, q), k)


# Score of each page for one KV head, where the selection is a plain top-k.
SCORES: dict[str, Callable[[Array, Array], Array]] = {
    "moba": lambda q, k: means(q, k).max(0),
    "nsa": lambda q, k: softmax(means(q, k) * SCALE, 1).sum(0),
    "infllm_v2": infllm,
    "lserve": lserve,
    "double_sparsity": lambda q, k: tokenwise(q * (np.arange(DIM) % 4 == 0), k).max((0, 2)),
    "sparq": sparq,
    "loki": lambda q, k: projected(q, k, 1, 16).max((0, 2)),
    "arkvale": lambda q, k: (means(q, k) + np.linalg.norm(q, axis=1)[:, None] * spread(k)).max(0),
    "token_select": lambda q, k: votes(q, k).sum(0),
    "dsa": dsa,
    "index_cache": dsa,
    "msa": lambda q, k: tokenwise(q.mean(0, keepdims=True), k)[0].max(1),
    "rocket_kv": lambda q, k: quest(q * (np.arange(DIM) % 2 == 0), k),
    "delta": lambda q, k: votes(q, k).max(0),
    "less_is_more": lambda q, k: votes(q, k).sum(0),
    "tidal_decode": lambda q, k: tokenwise(q, k).max((0, 2)),
    "kascade": lambda q, k: votes(q, k).sum(0),
    "hshare": centroid_softmax,
    "pyramid_kv": centroid_softmax,
    "ratio_budget": lambda q, k: means(q, k).mean(0),
    "hash_attention": hashed,
    "masked_quest": masked,
    "centered_centroid": lambda q, k: (means(q, k) - means(q, k).mean(1, keepdims=True)).max(0),
    "second_order": second_order,
    "key_norm": lambda q, k: -np.linalg.norm(paged(k), axis=-1).mean(1),
}
NOT_PLAIN = {
    "shadow_kv", "twilight", "tactic", "seer_threshold", "hisa", "h2o", "attention_ema", "snap_kv",
}  # fmt: skip
SHARED = {"token_select": np.sum, "delta": np.mean, "less_is_more": np.sum}
SINKS = {"moba": 0}
RECENT = {"moba": 1, "nsa": 31, "less_is_more": 63}
# What a plain number says of a narrow field: a share of the spread of the scores.
SLACK = {"hash_attention": 0.0}


def inputs(seed: int, steps: int = 1) -> tuple[Array, Array, Array]:
    g = np.random.default_rng(seed)
    q = g.normal(size=(steps, HEADS, GROUP, DIM)) * 2
    k, v = g.normal(size=(2, HEADS, TOKENS + steps - 1, DIM))
    return q, k, v


def decoder_of(name: str, budget: int = BUDGET, **knobs: object) -> Decoder:
    candidate = compile_text((LIBRARY / f"{name}.py").read_text(), {"budget": budget} | knobs)
    return Decoder(candidate, scale=SCALE, context=TOKENS, workload_context=TOKENS, layers=1)


def chosen(decoder: Decoder, q: Array, k: Array, v: Array) -> list[set[int]]:
    tensors = (torch.from_numpy(x.astype(np.float32)) for x in (q, k, v))
    return decoder.pages(0, *tensors)


def reserved(sinks: int, recent: int) -> set[int]:
    """The last page is partial: it is the first recent one."""
    return {*range(sinks), *range(PAGES + 1 - recent, PAGES + 1)}


def close(got: set[int], score: Array, kept: set[int], budget_pages: int, slack: float) -> None:
    """The best pages by the rule, but for those whose score is within rounding of the cut."""
    free = [p for p in range(PAGES) if p not in kept]
    wanted = budget_pages - len(kept)
    ranked = sorted(free, key=lambda p: -score[p])
    cut, margin = score[ranked[wanted - 1]], slack * float(np.std(score[free]))
    assert kept <= got and len(got) == budget_pages
    for page in got - kept:
        assert score[page] >= cut - margin, page
    for page in set(ranked[:wanted]) - got:
        assert score[page] <= cut + margin, page
    assert len(got ^ (kept | set(ranked[:wanted]))) <= max(2, wanted // 4)


def test_the_library_is_tested_whole() -> None:
    names = {p.stem for p in LIBRARY.glob("*.py")}
    assert names == SCORES.keys() | NOT_PLAIN
    assert len(names) >= 30


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("seed", [0, 1])
def test_pages_are_those_of_the_paper_s_rule(name: str, seed: int) -> None:
    q, k, v = inputs(seed)
    budget = 1200 if name in RECENT and RECENT[name] > 3 else BUDGET
    got = chosen(decoder_of(name, budget), q[0], k, v)
    scores = [SCORES[name](q[0, h], k[h]) for h in range(HEADS)]
    if name in SHARED:
        scores = [SHARED[name](scores, axis=0)] * HEADS
    kept = reserved(SINKS.get(name, 1), RECENT.get(name, 2))
    tokens = budget * 1.5 if name == "pyramid_kv" else budget
    for head in range(HEADS):
        close(got[head], scores[head], kept, int(tokens // SIZE), SLACK.get(name, 0.15))


def test_outliers_join_the_landmarks() -> None:
    q, k, v = inputs(2)
    kept = reserved(1, 2)
    for head, got in enumerate(chosen(decoder_of("shadow_kv"), q[0], k, v)):
        near, stray = centroid_softmax(q[0, head], k[head]), spread(k[head])
        free = [p for p in range(PAGES) if p not in kept]
        best = sorted(free, key=lambda p: -near[p])[: BUDGET // SIZE - 3]
        odd = sorted(free, key=lambda p: -stray[p])[: 256 // SIZE - 3]
        assert len(got ^ (kept | set(best) | set(odd))) <= 4


def fewest(score: Array, pages: list[int], mass: float, most: int) -> set[int]:
    ranked = sorted(pages, key=lambda p: -score[p])
    running = np.cumsum(score[ranked])
    enough = int(np.searchsorted(running, mass * running[-1])) + 1
    return set(ranked[: min(enough, most)])


@pytest.mark.parametrize("mass", [0.5, 0.8])
def test_top_p_keeps_the_fewest_pages_with_the_mass(mass: float) -> None:
    q, k, v = inputs(3)
    kept, most = reserved(1, 2), BUDGET // SIZE - 3
    free = [p for p in range(PAGES) if p not in kept]
    sizes = set()
    for head, got in enumerate(chosen(decoder_of("tactic", mass=mass), q[0], k, v)):
        score = softmax(means(q[0, head], k[head]) * SCALE, 1).sum(0)
        want = fewest(score, free, mass, most)
        assert len((got - kept) ^ want) <= 2
        sizes.add(len(want))
    for head, got in enumerate(chosen(decoder_of("twilight", mass=mass), q[0], k, v)):
        first = quest(q[0, head], k[head])
        coarse = sorted(free, key=lambda p: -first[p])[: 2 * BUDGET // SIZE - 3]
        logits = np.log(np.exp(tokenwise(q[0, head], k[head]) * SCALE).sum(2))
        want = fewest(softmax(logits, 1).sum(0), coarse, mass, most)
        assert len((got - kept) ^ want) <= max(4, len(want) // 4)


def test_a_threshold_keeps_every_page_above_it() -> None:
    q, k, v = inputs(4)
    kept = reserved(1, 2)
    for head, got in enumerate(chosen(decoder_of("seer_threshold", above=0.02), q[0], k, v)):
        score = centroid_softmax(q[0, head], k[head])
        want = {p for p in range(PAGES) if p not in kept and score[p] >= 0.02}
        assert 0 < len(want) < BUDGET // SIZE - 3
        assert len((got - kept) ^ want) <= 1


def test_a_coarse_choice_is_refined() -> None:
    q, k, v = inputs(5)
    kept = reserved(1, 2)
    free = [p for p in range(PAGES) if p not in kept]
    for head, got in enumerate(chosen(decoder_of("hisa", 512), q[0], k, v)):
        first = means(q[0, head], k[head]).sum(0)
        coarse = sorted(free, key=lambda p: -first[p])[: 3 * 512 // SIZE - 3]
        fine = np.maximum(tokenwise(q[0, head], k[head]), 0).sum(0).max(1)
        want = set(sorted(coarse, key=lambda p: -fine[p])[: 512 // SIZE - 3])
        assert len((got - kept) ^ want) <= 4


@pytest.mark.parametrize("name", ["h2o", "attention_ema", "snap_kv"])
def test_states_follow_the_attention_of_the_steps_before(name: str) -> None:
    steps = 4
    q, k, v = inputs(6, steps)
    decoder = decoder_of(name)
    heat = np.zeros((HEADS, PAGES))
    kept = reserved(1, 2)
    for step in range(steps):
        tokens = TOKENS + step
        got = chosen(decoder, q[step], k[:, :tokens], v[:, :tokens])
        decoder.advance()
        for head in range(HEADS):
            score = heat[head].copy()
            if name == "attention_ema":
                score = centroid_softmax(q[step, head], k[head]) + 0.1 * score
            if name == "snap_kv":
                score = np.array([heat[head][max(0, i - 2) : i + 3].mean() for i in range(PAGES)])
            if step or name == "attention_ema":
                close(got[head], score, kept, BUDGET // SIZE, 0.05)
            read = [t for t in range(tokens) if t // SIZE in got[head]]
            weights = softmax(q[step, head] @ k[head][read].T * SCALE, 1).sum(0)
            mass = np.zeros(PAGES + 1)
            np.add.at(mass, np.array(read) // SIZE, weights)
            decay = {"h2o": 1.0, "attention_ema": 0.7, "snap_kv": 0.9}[name]
            heat[head] = decay * heat[head] + mass[:PAGES]
