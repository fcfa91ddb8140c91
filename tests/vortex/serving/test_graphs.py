"""Second graphs: both kinds are captured, the right one is replayed, and a rule says which."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from vortex.errors import VortexError
from vortex.serving.sglang import graphs, internals


def test_each_shape_is_captured_for_sparse_and_for_dense_steps() -> None:
    backend = SimpleNamespace(two_graphs=True, capture_dense=False)
    made = SimpleNamespace(attn_backend=backend, seen=[])

    def capture(runner: Any, size: int, forward: Any, stream: Any, label: str | None) -> None:
        runner.seen.append((size, label, backend.capture_dense))

    graphs.captured_twice(capture, made, 8, None)
    assert made.seen == [(8, None, False), (8, graphs.LABEL, True)]
    assert not backend.capture_dense
    graphs.captured_twice(capture, made, 8, None, None, "lora")
    assert len(made.seen) == 3


class Registry:
    """Stands for SGLang's: what fails is logged there, and left out."""

    def __init__(self, taken: set[str], fails: bool) -> None:
        self._patched, self.fails, self.asked = taken, fails, list[str]()

    def register(self, target: str, hook: Any, kind: Any) -> None:
        self.asked.append(target)

    def apply_hooks(self) -> None:
        self._patched |= set() if self.fails else set(self.asked)


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    def put(taken: set[str], *, fails: bool = False) -> Registry:
        registry = Registry(taken, fails)
        module = SimpleNamespace(HookRegistry=registry, HookType=SimpleNamespace(AROUND=1, AFTER=2))
        monkeypatch.setitem(sys.modules, "sglang.srt.plugins.hook_registry", module)
        return registry

    monkeypatch.setattr(graphs, "_hooked", [])
    monkeypatch.setattr(internals, "check_names", lambda *needs: None)
    return put


def test_both_hooks_are_made_or_none(hooked: Callable[..., Registry]) -> None:
    """One alone would replay the sparse graph with what a dense step left in its memory."""
    engine = SimpleNamespace(server_args=SimpleNamespace(enable_lora=False))
    backend = SimpleNamespace(two_graphs=False)
    other = hooked({internals.LOAD})  # by another plugin
    assert not graphs.capture_twice(backend, engine)
    assert not backend.two_graphs and not other.asked
    hooked(set(), fails=True)
    with pytest.raises(VortexError) as raised:
        graphs.capture_twice(backend, engine)
    assert raised.value.code == "E804" and graphs.TWO in str(raised.value.hint)
    assert not backend.two_graphs
    made = hooked(set())
    assert graphs.capture_twice(backend, engine) and backend.two_graphs
    assert made.asked == [internals.CAPTURE, internals.LOAD]


def test_a_dense_step_replays_the_dense_graph() -> None:
    @dataclasses.dataclass(frozen=True)
    class Key:
        size: int
        variant_label: str | None = None

    backend = SimpleNamespace(two_graphs=True, dense=True)
    made = SimpleNamespace(attn_backend=backend, _replay_graph_key=Key(8))
    graphs.chosen(None, made)
    assert made._replay_graph_key == Key(8, graphs.LABEL)
    backend.dense, made._replay_graph_key = False, Key(4)
    graphs.chosen(None, made)
    assert made._replay_graph_key == Key(4)


def test_steps_attend_to_everything_where_the_budget_covers_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = graphs.rule(64)
    assert rule(torch.tensor([10, 64])) and not rule(torch.tensor([10, 65])) and not rule(None)
    assert not graphs.rule(0)(torch.tensor([1]))
    cheaper = graphs.rule(64, (400, 300, 50))  # of 1, 2, and 4 or more sequences
    assert cheaper(torch.tensor([400])) and not cheaper(torch.tensor([400, 1]))
    assert cheaper(torch.tensor([300, 1])) and not cheaper(torch.tensor([65, 1, 1]))
    assert cheaper(torch.tensor([64] * 9))
    monkeypatch.setenv(graphs.BELOW, "100")
    assert graphs.rule(64)(torch.tensor([100]))
    switch = tmp_path / "switch"
    switch.write_bytes(b"-")
    monkeypatch.setenv(graphs.SWITCH, str(switch))
    told = graphs.rule(64)
    assert told(torch.tensor([90]))
    with switch.open("r+b") as file:
        file.write(b"s")
        file.flush()
        assert not told(torch.tensor([90]))
    monkeypatch.setenv(graphs.BELOW, "soon")
    with pytest.raises(VortexError, match="no number of tokens"):
        graphs.rule(64)
