"""The parity check lets rounding pass, and nothing else."""

from __future__ import annotations

import re

import pytest
import torch

from evals.parity import Shape, disagreement
from search_spaces.block_topk import library
from vortex import compile_text, selection
from vortex.cpu import Router

TEXTS = {p.name: p.text for p in library()}
SHAPE = Shape(2, 3, 16)


def verdict(name: str) -> str | None:
    return disagreement(compile_text(TEXTS[name], {"budget": 512}), SHAPE, seed=1)


@pytest.mark.parametrize("name", ["quest", "tactic", "h2o", "hshare", "delta"])
def test_a_sound_backend_passes(name: str) -> None:
    assert verdict(name) is None


def test_one_page_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = selection.enough

    def more(*args: object) -> torch.Tensor:
        return exact(*args) + 1  # type: ignore[arg-type]

    monkeypatch.setattr(selection, "enough", more)
    text = re.sub(r"mass = vx\.real\(.*\)", "mass = 0.2", TEXTS["tactic"])  # far below the budget
    candidate = compile_text(text, {"budget": 8192})
    assert "keeps pages" in (disagreement(candidate, SHAPE, seed=1) or "")


@pytest.mark.parametrize("name", ["quest", "tactic", "h2o", "hshare"])
def test_scores_that_are_a_little_wrong_are_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = Router._scores

    def wrong(self: Router, *args: object) -> dict[str, torch.Tensor]:
        found = exact(self, *args)  # type: ignore[arg-type]
        return {key: s + (0.5 + s.nan_to_num().std()) * torch.sin(torch.arange(s.shape[-1]))
                for key, s in found.items()}  # fmt: skip

    monkeypatch.setattr(Router, "_scores", wrong)
    assert "keeps pages" in (verdict(name) or "")


def test_another_rule_for_ties_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "tie_hash", lambda pages: pages.to(torch.int64))
    text = TEXTS["quest"].replace('bound.max("head")', '0.0 * bound.max("head")')
    found = disagreement(compile_text(text, {"budget": 512}), SHAPE, seed=1)
    assert found is not None
