"""Our own executor in the place of an inference engine: answers, one at a time, on this CPU."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from evals.engine.engine import MODES, OWN, Completion, Mode, Request, Sampling, failed
from evals.models.huggingface import load_folder
from evals.models.transformer import ModelSpec
from evals.prefill import DenseCausal
from vortex.errors import VortexError
from vortex.ir import Candidate
from vortex.paged import PagedDecode, PagedPool
from vortex.plan import dense_layers, plan_of

_KEPT = 4  # prompts whose caches are at hand, for the other mode and for who begins alike
_SETTINGS = ("tokenizer_config.json", "generation_config.json", "config.json")


class LocalEngine:
    """Answers of a checkpoint under a candidate and under full attention, in float32 with a bf16
    cache. Prompts are prefilled with full attention, as serving engines do.

    There are no times worth reporting: it is slow, and says so by its facts.

    Args:
        folder: config.json, tokenizer.json and \\*.safetensors of the Llama or Qwen kind.

    Raises:
        VortexError: E404, the folder holds no such model.
    """

    modes: tuple[Mode, ...] = MODES

    def __init__(self, folder: Path, candidate: Candidate) -> None:
        self.model, self.candidate = load_folder(folder), candidate
        self.settings = _settings(folder)
        self._mode: Mode = "full"
        self._caches: OrderedDict[tuple[int, ...], tuple[Tensor, Tensor]] = OrderedDict()
        self._fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.facts: Mapping[str, str] = {
            "engine": f"vortex-search {importlib.metadata.version('vortex-search')}, {OWN}",
            "torch": torch.__version__, "device": "cpu", "model": folder.name,
            "config": self.model.spec.digest[:24], "weights": "real",
        }  # fmt: skip

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, with what the tokenizer puts before it."""
        return list(self._fast.encode(text).ids)

    def chat(self, text: str) -> str:
        """A text as a user's turn in the model's own format.

        Raises:
            VortexError: E904, the folder holds no format.
        """
        template = self.settings.get("chat_template")
        if not isinstance(template, str):
            raise failed("the model has no chat format", "ask without --chat")
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        first = _token(self.settings, "bos_token")
        shown = made.from_string(template).render(
            messages=[{"role": "user", "content": text}], add_generation_prompt=True,
            bos_token=first, eos_token=_token(self.settings, "eos_token"),
        )  # fmt: skip
        if first and shown.startswith(first) and len(set(self.encode(shown)[:2])) == 1:
            shown = shown[len(first) :]  # the tokenizer puts its own before the format's
        return shown

    def use(self, mode: Mode) -> None:
        """See Engine."""
        self._mode = mode

    def generate(
        self, requests: Sequence[Request], *, stream: bool = True, at_once: int | None = None
    ) -> list[Completion]:
        """See Engine; a prompt that is too long for the model is E906."""
        began = time.perf_counter()
        return [self._one(r, began) for r in requests]

    def close(self) -> None:
        """See Engine."""
        self._caches.clear()

    def _one(self, request: Request, began: float) -> Completion:
        sent, s = time.perf_counter(), request.sampling
        prompt = request.prompt
        tokens = tuple(self.encode(prompt) if isinstance(prompt, str) else prompt)
        room = self.model.spec.max_context - len(tokens)
        if not tokens or room < s.tokens:
            most = self.model.spec.max_context
            raise VortexError(
                f"{len(tokens)} tokens and {s.tokens} new ones exceed the model's {most}",
                code="E906", hint="shorter --lengths, or a smaller --max-new",
            )  # fmt: skip
        found, finish = self._decoded(tokens, s)
        at = time.perf_counter() - sent
        return Completion(
            self._fast.decode(found), tuple(found), len(found), finish, sent - began,
            ((at, len(found)),), prompt_tokens=len(tokens),
        )  # fmt: skip

    def _decoded(self, tokens: tuple[int, ...], s: Sampling) -> tuple[list[int], str]:
        kv, logits = self._prefilled(tokens)
        attend = self._attend(kv, len(tokens) + s.tokens)
        draw = torch.Generator().manual_seed(s.seed)
        found: list[int] = []
        while True:
            token = drawn(logits, s, draw)
            if token in self._ends() and not s.ignore_end:
                return found or [token], "stop"
            found.append(token)
            if len(found) == s.tokens:
                return found, "length"
            position = torch.tensor([[len(tokens) + len(found) - 1]])
            logits = self.model.forward(torch.tensor([[token]]), position, attend)[-1]
            attend.advance()

    def _ends(self) -> frozenset[int]:
        given = self.settings.get("eos_token_id")
        return frozenset(given if isinstance(given, list) else [given])

    def _prefilled(self, tokens: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The cache of a prompt, and the logits after it."""
        if tokens not in self._caches:
            alike = max(self._caches, key=lambda other: _common(other, tokens), default=())
            shared = min(_common(alike, tokens), len(tokens) - 1)
            known = self._caches[alike][0][:, :, :, :shared] if shared else None
            dense = Continued(self.model.spec, len(tokens), known)
            row = torch.tensor(tokens[shared:])[None]
            last = torch.zeros_like(row, dtype=torch.bool)
            last[0, -1] = True
            places = torch.arange(shared, len(tokens))[None]
            logits = self.model.forward(row, places, dense, logits_at=last)[-1]
            self._caches[tokens] = dense.kv, logits
            while len(self._caches) > _KEPT:
                self._caches.popitem(last=False)
        return self._caches[tokens]

    def _attend(self, kv: Tensor, most: int) -> PagedDecode:
        """Decoding in the mode at hand. The program is taken as served: its budget is what it
        says, whatever the length."""
        spec, cache, candidate = self.model.spec, self.model.spec.cache, self.candidate
        layers = spec.layers
        everything = self._mode == "full" or plan_of(candidate.select).everything
        dense = frozenset(range(layers)) if everything else dense_layers(candidate, layers, layers)
        pool = PagedPool(
            layers=layers, kv_heads=cache.kv_heads, dim=cache.key_dim, sequences=1,
            page_size=candidate.page_size, max_tokens=most + 1,
        )  # fmt: skip
        pool.fill(0, kv)
        found = PagedDecode(
            candidate, pool, scale=spec.scale, context=most, workload_context=most, dense=dense,
            rope=cache.rope,
        )  # fmt: skip
        found.summarise()
        return found


class Continued:
    """Attention of a prefill that may begin with a cache.

    Args:
        tokens: of the whole prompt.
        known: the cache of its first tokens, ``[layer, parts, kv_head, token, key_dim]``, or None.
    """

    def __init__(self, spec: ModelSpec, tokens: int, known: Tensor | None) -> None:
        self.dense, self.first = DenseCausal(spec, tokens), 0
        self.kv = self.dense.kv
        if known is not None:
            self.first = known.shape[3]
            self.kv[:, :, :, : self.first] = known

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Attend."""
        if not self.first:
            return self.dense(layer, q, k, v)
        new = [k] if self.dense.cache.shared else [k, v]
        for part, x in enumerate(new):
            self.kv[layer, part, :, self.first :] = x[0].transpose(0, 1)
        keys, values = (x[layer][None].float() for x in self.dense.cache.split(self.kv))
        seen = torch.ones(q.shape[1], keys.shape[2], dtype=torch.bool).tril(self.first)
        out = functional.scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, attn_mask=seen, enable_gqa=True,
            scale=self.dense.scale,
        )  # fmt: skip
        return out.transpose(1, 2)


def _common(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    """Tokens that both begin with."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(two)))


def drawn(logits: Tensor, s: Sampling, draw: torch.Generator) -> int:
    """A token by its logits ``[vocab]``."""
    if s.temperature <= 0:
        return int(logits.argmax())
    shares, order = torch.softmax(logits / s.temperature, -1).sort(descending=True)
    shares = torch.where(shares.cumsum(-1) - shares < s.top_p, shares, 0.0)
    return int(order[torch.multinomial(shares, 1, generator=draw)])


def _settings(folder: Path) -> dict[str, Any]:
    """What the files say together; the first that has a word wins."""
    found: dict[str, Any] = {}
    for name in reversed(_SETTINGS):
        try:
            found |= json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            continue
    template = folder / "chat_template.jinja"
    if template.is_file():
        found["chat_template"] = template.read_text(encoding="utf-8")
    return found


def _token(settings: Mapping[str, Any], name: str) -> str:
    """A special token's text: plain, or an object that has it."""
    given = settings.get(name) or ""
    return str(given.get("content", "") if isinstance(given, dict) else given)
