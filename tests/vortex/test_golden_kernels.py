"""Generated kernels, word for word; ``python -m tests.vortex.test_golden_kernels`` renews them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vortex.compile import compile_text
from vortex.ir import Candidate
from vortex.triton.arrays import Shapes
from vortex.triton.scoring import scoring
from vortex.triton.summaries import summaries

HERE = Path(__file__).resolve().parent
SPACE = HERE.parents[1] / "search_spaces" / "block_topk"
GQA = Shapes(2, 128, 128, (0, 128), 28, (128, 128))
MLA = Shapes(20, 576, 512, (512, 64), 47, (576, 576))


def generated() -> dict[str, str]:
    """Texts by the name of their file."""

    def candidate(name: str, dtype: str = "bf16", folder: str = "seeds") -> Candidate:
        text = (SPACE / folder / f"{name}.py").read_text()
        return compile_text(text.replace("vx.Summary(", f'vx.Summary(dtype="{dtype}", '))

    return {
        "quest_gqa_route": scoring(candidate("quest"), GQA).text,
        "centroid_softmax_gqa_route": scoring(candidate("centroid_softmax"), GQA).text,
        "centroid_softmax_mla_route": scoring(candidate("centroid_softmax"), MLA).text,
        "hshare_gqa_route": scoring(candidate("hshare", folder="library"), GQA).text,
        "sub_centroids_fp8_append": summaries(candidate("sub_centroids", "fp8"), GQA).text,
    }


@pytest.mark.parametrize("name", sorted(generated()))
def test_the_generated_text_is_the_one_that_was_read_and_agreed(name: str) -> None:
    assert generated()[name] == (HERE / "golden" / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", sorted(generated()))
def test_generated_text_holds_no_name_of_the_author(name: str) -> None:
    text = generated()[name]
    assert not any(word in text for word in ("Quest", "center", "budget", "lo ", "parts"))


if __name__ == "__main__":
    for name, text in generated().items():
        (HERE / "golden" / f"{name}.txt").write_text(text)
