"""Asks the questions of a context under an attention algorithm, teacher-forced, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from evals.models.transformer import Attend, Transformer
from evals.result import Sample
from evals.tasks import Question


@dataclass(frozen=True, slots=True)
class Batch:
    """Questions of one task, padded to one length.

    Attributes:
        tokens: int64 ``[question, time]``, prompt and answer without its last token.
        at: bool like ``tokens``: positions whose next token is part of the answer.
        targets: int64 ``[n]``, those next tokens in row-major order.
    """

    task: str
    tokens: Tensor
    at: Tensor
    targets: Tensor
    lengths: tuple[int, ...]


def batches(questions: Sequence[Question]) -> list[Batch]:
    """One batch for each run of questions of the same task."""
    return [_batch(task, list(group)) for task, group in groupby(questions, lambda q: q.task)]


def _batch(task: str, questions: list[Question]) -> Batch:
    width = max(len(q.prompt) + len(q.answer) for q in questions) - 1
    tokens = torch.zeros(len(questions), width, dtype=torch.int64)
    at = torch.zeros(len(questions), width, dtype=torch.bool)
    targets: list[int] = []
    for row, q in enumerate(questions):
        text = [*q.prompt, *q.answer][:-1]
        tokens[row, : len(text)] = torch.tensor(text)
        at[row, len(q.prompt) - 1 : len(text)] = True
        targets += q.answer
    return Batch(task, tokens, at, torch.tensor(targets), tuple(len(q.answer) for q in questions))


def answer_log_probs(model: Transformer, batch: Batch, start: int, attend: Attend) -> Tensor:
    """Log-probabilities at the answer positions, float32 ``[n, vocab]``.

    Args:
        start: position of the first token: the length of the context.
    """
    positions = start + torch.arange(batch.tokens.shape[1]).expand(batch.tokens.shape)
    logits = model.forward(batch.tokens, positions, attend, logits_at=batch.at)
    return torch.log_softmax(logits, -1)


def score(
    model: Transformer,
    questions: Sequence[Question],
    attend: Attend,
    *,
    context: str,
    start: int,
    full: Tensor | None,
) -> list[Sample]:
    """Samples of every task in one context.

    Needle and single: ``nll`` is the log loss of the whole answer in nats, ``exact`` whether every
    token of it is the most likely one. Copy and continuation: ``nll`` and ``top1`` per token, and
    against ``full`` (full attention's log-probabilities of the continuation, ``[n, vocab]``) the
    divergence ``kl`` = KL(full, this) in nats and ``agree``, how often both name the same token.
    """
    samples = []
    for batch in batches(questions):
        log_probs = answer_log_probs(model, batch, start, attend)
        nll = -log_probs.gather(1, batch.targets[:, None])[:, 0]
        right = (log_probs.argmax(-1) == batch.targets).to(torch.float32)
        values: dict[str, float]
        if batch.task in ("needle", "single"):
            losses = [float(part.sum()) for part in torch.split(nll, list(batch.lengths))]
            exact = [float(part.min()) for part in torch.split(right, list(batch.lengths))]
            values = {"nll": _mean(losses), "exact": _mean(exact)}
            n = len(losses)
        else:
            values = {"nll": float(nll.mean()), "top1": float(right.mean())}
            n = len(nll)
            if batch.task == "continuation" and full is not None:
                reference = full.to(torch.float32)
                gap = (reference.exp() * (reference - log_probs)).sum(-1)
                same = (reference.argmax(-1) == log_probs.argmax(-1)).to(torch.float32)
                values |= {"kl": float(gap.mean()), "agree": float(same.mean())}
        samples += [
            Sample(context=context, task=batch.task, metric=name, value=value, n=n)
            for name, value in values.items()
        ]
    return samples


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
