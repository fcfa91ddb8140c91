"""Kernels are compiled ahead of their first launch, and nothing runs meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton")
from vortex.triton.runtime import compiled_ahead, launch


class Kernel:
    """Stands for a compiled function."""

    def __init__(self) -> None:
        self.warmed, self.ran = list[Any](), list[Any]()

    def warmup(self, *arguments: Any, grid: Any, **constants: Any) -> None:
        self.warmed.append((arguments, grid, constants))

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **constants: self.ran.append((arguments, grid, constants))


def test_launches_are_compiled_in_a_block_and_run_outside() -> None:
    kernel = Kernel()
    with compiled_ahead():
        launch(kernel, (2, 3), 1, num_warps=4)
    assert kernel.warmed == [((1,), (2, 3), {"num_warps": 4})] and not kernel.ran
    launch(kernel, (2, 3), 1, num_warps=4)
    assert kernel.ran == [((1,), (2, 3), {"num_warps": 4})] and len(kernel.warmed) == 1


def test_a_failure_does_not_leave_launches_off() -> None:
    kernel = Kernel()
    with pytest.raises(ZeroDivisionError), compiled_ahead():
        raise ZeroDivisionError
    launch(kernel, (1,))
    assert kernel.ran
