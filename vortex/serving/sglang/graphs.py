"""Second CUDA graphs: steps that attend to everything replay the inner backend's own launches.

A captured graph cannot choose. SGLang keeps its graphs under a key with a free label (it serves
LoRA); each shape is captured twice, and a step takes the graph that the host's rule names. The rule
reads lengths that the scheduler has on the host anyway.
"""

from __future__ import annotations

import dataclasses
import logging
import mmap
import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

from vortex.errors import VortexError
from vortex.serving.sglang import internals
from vortex.serving.sglang.cheaper import bound_of

LABEL = "vortex-dense"
BELOW, SWITCH, TWO = (
    "SGLANG_VORTEX_DENSE_BELOW", "SGLANG_VORTEX_SWITCH", "SGLANG_VORTEX_TWO_GRAPHS",
)  # fmt: skip
_log = logging.getLogger(__name__)
_hooked: list[str] = []


def rule(covered: int, bounds: tuple[int, ...] = ()) -> Callable[[Tensor | None], bool]:
    """Whether a step attends to everything: its longest sequence has at most so many tokens.

    The bound is ``covered``, where the program selects every page anyway, or ``bounds`` by the size
    of the batch (see ``cheaper``), or what ``SGLANG_VORTEX_DENSE_BELOW`` says in place of both.
    ``SGLANG_VORTEX_SWITCH`` names a file of one byte that overrules it while the engine runs (for
    measurements): ``d`` for dense, ``s`` for sparse.

    Raises:
        VortexError: E804, the bound is no number, or the switch cannot be read.
    """
    given = os.environ.get(BELOW, "")
    if given and not given.isdecimal():
        raise internals.unsupported(f"{BELOW} is no number of tokens: {given[:40]!r}")
    fixed = int(given) if given else None
    switch = _switch(os.environ.get(SWITCH))

    def attends_all(lengths: Tensor | None) -> bool:
        told = switch()
        if told in (b"d", b"s"):
            return told == b"d"
        if lengths is None or not len(lengths):
            return False
        bound = max(covered, bound_of(bounds, len(lengths))) if fixed is None else fixed
        return bound > 0 and int(lengths.max()) <= bound

    return attends_all


def _switch(path: str | None) -> Callable[[], bytes]:
    if not path:
        return lambda: b""
    try:
        with open(path, "rb") as file:
            held = mmap.mmap(file.fileno(), 1, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise internals.unsupported(f"{SWITCH}: cannot read {path}: {error}") from None
    return lambda: held[:1]


def capture_twice(backend: Any, runner: Any) -> bool:
    """Have every shape of decoding captured for sparse and for dense steps.

    Returns:
        Whether it will be; with ``SGLANG_VORTEX_TWO_GRAPHS=0``, or with LoRA, which has the
        label, a captured step is always sparse.
    """
    if os.environ.get(TWO, "1") == "0" or getattr(runner.server_args, "enable_lora", False):
        return False
    try:
        internals.check_names("second graphs")
    except VortexError as error:
        _log.warning("steps that attend to everything get no graphs: %s", error.message)
        return False
    backend.two_graphs = bool(_hooked) or _hook()
    return bool(backend.two_graphs)


def check_switch(two: bool) -> None:
    """Refuse to measure where graphs of one kind only would be replayed whatever the switch says.

    Raises:
        VortexError: E804.
    """
    if os.environ.get(SWITCH) and not two:
        raise internals.unsupported(
            f"{SWITCH} chooses between two kinds of graphs, and only sparse ones will be captured",
            f"unset {TWO} (and LoRA or another plugin that hooks captures), or turn graphs off",
        )


def _hook() -> bool:
    """Hook captures and replays; both or neither, for one alone would replay the wrong graph."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    capture, replay = internals.CAPTURE, internals.LOAD
    taken = {capture, replay} & HookRegistry._patched
    if taken:
        _log.warning("steps that attend to everything get no graphs: another plugin hooked %s",
                     ", ".join(sorted(taken)))  # fmt: skip
        return False
    HookRegistry.register(capture, captured_twice, HookType.AROUND)
    HookRegistry.register(replay, chosen, HookType.AFTER)
    HookRegistry.apply_hooks()
    missed = {capture, replay} - HookRegistry._patched
    if missed:  # the registry logs and goes on
        raise internals.unsupported(f"cannot hook {', '.join(sorted(missed))}", f"{TWO}=0")
    _hooked.append(capture)
    return True


def captured_twice(
    original: Callable[..., Any], runner: Any, size: int, forward: Any, stream_idx: Any = None,
    variant_label: str | None = None,
) -> Any:  # fmt: skip
    """In place of a capture: the same, and once more with the inner backend's decode step."""
    backend = runner.attn_backend
    out = original(runner, size, forward, stream_idx, variant_label)
    if getattr(backend, "two_graphs", False) and variant_label is None:
        backend.capture_dense = True
        try:
            original(runner, size, forward, stream_idx, LABEL)
        finally:
            backend.capture_dense = False
    return out


def chosen(result: Any, runner: Any, *args: Any, **kwargs: Any) -> Any:
    """After a batch was loaded: replay the dense graph where the step is dense."""
    backend = runner.attn_backend
    if getattr(backend, "two_graphs", False) and backend.dense:
        key = runner._replay_graph_key
        runner._replay_graph_key = dataclasses.replace(key, variant_label=LABEL)
    return result
