"""Kernels are compiled ahead of their first launch, and nothing runs meanwhile."""

from __future__ import annotations

import inspect
from concurrent.futures import as_completed
from typing import Any

import pytest

pytest.importorskip("triton")
import triton
from triton.runtime._async_compile import AsyncCompileMode, active_mode

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


class Mode(AsyncCompileMode):
    """As Triton 3.6 has it: left by an error, it goes on."""

    def __exit__(self, *error: Any) -> None:
        for future in as_completed(self.raw_futures):
            self.future_kernels[future._key].result(self.ignore_errors)
        super().__exit__(*error)


def test_a_kernel_that_does_not_compile_leaves_the_compiler_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(Kernel):
        def warmup(self, *arguments: Any, grid: Any, **constants: Any) -> None:
            mode = active_mode.get()
            assert mode is not None
            given = inspect.signature(mode.submit).parameters
            mode.submit("key", lambda: 1 // 0, *[lambda *_: None] * (len(given) - 2))

    monkeypatch.setattr(triton, "AsyncCompileMode", Mode)
    with compiled_ahead():
        launch(Broken(), (1,))
    assert active_mode.get() is None


def test_a_failure_does_not_leave_launches_off() -> None:
    kernel = Kernel()
    with pytest.raises(ZeroDivisionError), compiled_ahead():
        raise ZeroDivisionError
    launch(kernel, (1,))
    assert kernel.ran
