"""Prefills contexts under full attention once, and keeps their KV cache and traces on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from evals.contexts import Context
from evals.models.fetch import cache_dir
from evals.models.transformer import Attend, ModelSpec, Transformer
from evals.scoring import answer_log_probs, batches
from vortex.compile import compile_text
from vortex.errors import ExitCode, VortexError
from vortex.suffix import SuffixAttend

VERSION = 1
_TRACED = ("needle", "copy")
_FULL = "import vortex as vx\nclass Full(vx.Algorithm):\n    page_size = 16\n    def select(self):\n        return vx.all()\n"  # noqa: E501


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A context whose keys and values are known.

    Attributes:
        kv: bf16 ``[layer, parts, kv_head, token, key_dim]``, keys after RoPE.
        full: float16 ``[n, vocab]``: full attention's log-probabilities of the continuation.
        queries: float32 ``[layer, n, head, key_dim]``: of question tokens, under full attention.
    """

    context: Context
    kv: Tensor
    full: Tensor
    queries: Tensor


class DenseCausal:
    """Attention of a prefill; keeps the keys and values, rounded as the cache stores them."""

    def __init__(self, spec: ModelSpec, tokens: int) -> None:
        self.cache, self.scale = spec.cache, spec.scale
        self.kv = torch.empty(
            spec.layers, self.cache.parts, self.cache.kv_heads, tokens, self.cache.key_dim,
            dtype=torch.bfloat16,
        )  # fmt: skip

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Attend."""
        self.kv[layer, 0] = k[0].transpose(0, 1)
        if not self.cache.shared:
            self.kv[layer, 1] = v[0].transpose(0, 1)
        keys, values = (x.to(torch.bfloat16).to(torch.float32).transpose(1, 2) for x in (k, v))
        out = functional.scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, is_causal=True, enable_gqa=True,
            scale=self.scale,
        )  # fmt: skip
        return out.transpose(1, 2)


class Recorder:
    """Passes through to another algorithm and keeps the queries of one step of each row."""

    def __init__(self, inner: Attend, steps: Tensor) -> None:
        self.inner, self.steps = inner, steps
        self.queries: list[Tensor] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Attend."""
        self.queries.append(q[torch.arange(q.shape[0]), self.steps])
        return self.inner(layer, q, k, v)


def path_of(spec: ModelSpec, context: Context) -> Path:
    """Where a prefilled context is kept."""
    name = f"{context.name}-{spec.digest[:12]}-{context.digest[:12]}-v{VERSION}.safetensors"
    return cache_dir() / "contexts" / name


def load(spec: ModelSpec, context: Context) -> Prefilled | None:
    """A prefilled context from disk, or None if it is absent or damaged."""
    path = path_of(spec, context)
    try:
        tensors = load_file(path)
        return Prefilled(context, tensors["kv"], tensors["full"], tensors["queries"])
    except (OSError, SafetensorError, KeyError):
        return None


def prefill(model: Transformer, context: Context) -> Prefilled:
    """The context with its KV cache, from disk if possible; else computed and kept.

    Safe with several processes: files are written aside and renamed.

    Raises:
        VortexError: E502, the disk is full or cannot be written.
    """
    found = load(model.spec, context)
    if found is not None:
        return found
    tokens = torch.tensor(context.tokens)[None]
    dense = DenseCausal(model.spec, tokens.shape[1])
    nothing = torch.zeros_like(tokens, dtype=torch.bool)
    model.forward(tokens, torch.arange(tokens.shape[1])[None], dense, logits_at=nothing)
    full, queries = _traces(model, context, dense.kv)
    _write(path_of(model.spec, context), {"kv": dense.kv, "full": full, "queries": queries})
    return Prefilled(context, dense.kv, full, queries)


def _traces(model: Transformer, context: Context, kv: Tensor) -> tuple[Tensor, Tensor]:
    """Full attention's continuation log-probabilities, and one query per traced question."""
    attend = SuffixAttend(
        compile_text(_FULL, reserved=True), model.spec.cache.split(kv), scale=model.spec.scale,
        workload_context=len(context.tokens), rope=model.spec.cache.rope,
    )  # fmt: skip
    full = torch.zeros(0, model.spec.vocab, dtype=torch.float16)
    queries = []
    for batch in batches(context.questions):
        first = batch.at.to(torch.int64).argmax(1)  # the step that predicts the answer's start
        recorder = Recorder(attend, first)
        log_probs = answer_log_probs(model, batch, len(context.tokens), recorder)
        if batch.task == "continuation":
            full = log_probs.to(torch.float16)
        if batch.task in _TRACED:
            queries.append(torch.stack(recorder.queries))
    return full, torch.cat(queries, 1)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, aside)
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise VortexError(
            f"cannot keep the prefilled context in {path.parent}: {error}",
            code="E502",
            hint="free some space (60 MB a context), or set VORTEX_CACHE to another folder",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None


def ensure(
    model: Transformer, contexts: Sequence[Context], report: Callable[[int, int], None]
) -> None:
    """Prefill what is missing, reporting (done, total)."""
    for done, context in enumerate(contexts):
        report(done, len(contexts))
        if not path_of(model.spec, context).is_file():
            prefill(model, context)
    report(len(contexts), len(contexts))
