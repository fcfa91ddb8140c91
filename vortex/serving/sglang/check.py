"""A short check inside the engine that will serve: the same tokens, and how fast.

``python -m vortex.serving.sglang.check MODEL`` prints one JSON object a line. One engine, in which
a switch chooses between sparse steps and the inner backend's.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vortex.errors import ExitCode, VortexError
from vortex.serving.sglang.graphs import SWITCH, TWO

_MANY = 136  # tokens of the longer replies of a speed check
TOPS = 8  # log probabilities that are asked for beside each token
_SLACK = 0.02  # share of prompt tokens that caches may serve more to one run than another
NEAR = 0.25  # of a log probability, a near tie: four steps of bf16 logits between 8 and 16


class Switch:
    """The byte that says what the next steps are: ``d`` dense, ``s`` sparse, ``-`` by the rule."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"-")
        self.file = os.open(path, os.O_RDWR)

    def __call__(self, to: str) -> None:
        """Steps that begin from now on are of this kind."""
        os.pwrite(self.file, to.encode(), 0)

    def close(self) -> None:
        """What is set stays; nothing more can be."""
        os.close(self.file)


class Uncached(Exception):
    """The prefix cache did not hold the prompts of a run that was timed."""


def tokens(count: int, seed: int, vocab: int) -> list[int]:
    """Random tokens, none of the first three."""
    chosen = random.Random(seed)
    return [chosen.randrange(3, vocab) for _ in range(count)]


def engine(model: str, backend: str = "vortex", **settings: Any) -> Any:
    """An SGLang engine that takes and gives token numbers."""
    import sglang

    return sglang.Engine(
        model_path=model, skip_tokenizer_init=True, attention_backend=backend,
        sampling_backend="pytorch", grammar_backend="none", random_seed=1, **settings,
    )  # fmt: skip


def generated(made: Any, prompts: Sequence[list[int]], count: int, **more: Any) -> list[Any]:
    """Greedy tokens of each prompt, as many as asked for."""
    sampling = {"max_new_tokens": count, "ignore_eos": True, "temperature": 0}
    out = made.generate(input_ids=list(prompts), sampling_params=sampling, **more)
    return out if isinstance(out, list) else [out]


def difference(one: Sequence[Any], two: Sequence[Any]) -> dict[str, Any]:
    """How two runs of the same requests differ: where tokens part, and how near a tie it was: by
    how much the first run found the second's token less likely than its own.

    Args:
        one, two: replies with the top log probabilities of each token.
    """
    equal = parted = beyond = 0
    gaps, shifts = [], [0.0]
    for a, b in zip(one, two, strict=True):
        first, second = a["output_ids"], b["output_ids"]
        at = next((i for i, x in enumerate(first) if second[i] != x), None)
        tops = [x["meta_info"]["output_top_logprobs"] for x in (a, b)]
        for i in range(len(first) if at is None else at):
            shifts.append(abs(tops[0][i][0][0] - tops[1][i][0][0]))
        equal += at is None
        if at is not None:
            parted += 1
            likely = {token: logprob for logprob, token, *_ in tops[0][at]}
            other = likely.get(second[at])
            beyond += other is None
            if other is not None:
                gaps.append(round(tops[0][at][0][0] - other, 4))
    return {
        "requests": len(one), "equal": equal, "parted": parted,
        "gap_where_parted": sorted(gaps, reverse=True)[:8], "beyond_the_top": beyond,
        "largest_logprob_shift": round(max(shifts), 4),
    }  # fmt: skip


def near(found: dict[str, Any]) -> bool:
    """Whether runs part at near ties alone (see ``difference``)."""
    return not found["beyond_the_top"] and max(found["gap_where_parted"], default=0.0) <= NEAR


def decode_rate(made: Any, prompts: Sequence[list[int]], few: int, many: int) -> float:
    """Decode tokens/s: two runs of different length, whose prompts the prefix cache holds.

    Raises:
        Uncached: it did not, and the difference is not decoding alone.
    """
    took, cached = [], []
    for count in (few, many):
        began = time.perf_counter()
        replies = generated(made, prompts, count)
        took.append(time.perf_counter() - began)
        cached.append(sum(r["meta_info"].get("cached_tokens") or 0 for r in replies))
    total = sum(map(len, prompts))
    if abs(cached[1] - cached[0]) > _SLACK * total:
        raise Uncached(f"caches served {cached[0]:,} and {cached[1]:,} of {total:,} prompt tokens")
    return len(prompts) * (many - few) / (took[1] - took[0])


def main(model: str, covered: int, page_size: int, context: int) -> None:
    """Serve a model, and print what was found.

    Args:
        model: a Hugging Face folder; without weights, random ones are drawn.
        covered: tokens up to which the program selects every page.
        context: of the requests whose speed is measured.

    Raises:
        VortexError: E808, the folder has no configuration.
    """
    folder = Path(model)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        vocab, most = int(config["vocab_size"]), int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        raise VortexError(
            f"{model} holds no config.json with vocab_size and max_position_embeddings",
            code="E808",
            hint="name a Hugging Face folder", exit_code=ExitCode.USAGE,
        ) from None  # fmt: skip
    # A model may be shorter than what was asked for.
    context, covered = min(context, most - _MANY - 8), min(covered, most)
    drawn = not any(folder.glob("*.safetensors"))
    with tempfile.TemporaryDirectory() as scratch:
        switch_file = Path(scratch) / "switch"
        switch = Switch(switch_file)
        os.environ |= {SWITCH: str(switch_file), TWO: "1"}
        made = engine(
            model, page_size=page_size, log_level="error", mem_fraction_static=0.8,
            context_length=min(most, max(context, covered) + _MANY + 64),
            **({"load_format": "dummy"} if drawn else {}),
        )  # fmt: skip
        print(json.dumps({"what": "weights", "random": drawn}), flush=True)
        if covered > 64:
            prompts = [tokens(16 + i * (covered - 48) // 16, i, vocab) for i in range(16)]
            runs = []
            for mode in "ds":
                switch(mode)
                made.flush_cache()
                more = {"return_logprob": True, "top_logprobs_num": TOPS}
                runs.append(generated(made, prompts, 24, **more))
            print(json.dumps({"what": "tokens", **difference(*runs)}), flush=True)
        prompts = [tokens(context, 100 + i, vocab) for i in range(8)]
        facts = {"what": "decode tokens/s", "rows": 8, "context": context}
        print(json.dumps(facts | _rates(made, switch, prompts)), flush=True)
        made.shutdown()


def _rates(made: Any, switch: Switch, prompts: list[list[int]]) -> dict[str, Any]:
    """Decode rates of both modes in turn, or why there are none."""
    rates: dict[str, list[float]] = {"d": [], "s": []}
    generated(made, prompts, 4)  # the prefix cache has the prompts from here on
    try:
        for turn in range(4):
            for mode, found in rates.items():
                switch(mode)
                rate = decode_rate(made, prompts, 8, _MANY)
                if turn:  # the first steps of either are slow
                    found.append(round(rate, 1))
    except Uncached as error:
        return {"why": str(error)}
    return {"dense": rates["d"], "sparse": rates["s"]}


if __name__ == "__main__":
    try:
        main(sys.argv[1], *(int(x) for x in sys.argv[2:5]))
    except VortexError as error:
        print(error.render(), file=sys.stderr)
        sys.exit(error.exit_code)
