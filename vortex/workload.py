"""What is served: batch, context, and the type of the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from vortex.errors import VortexError

KV_BYTES = {"bf16": 2, "fp8": 1}
MOST = 2**31  # sequences, tokens: far beyond any cache, so what is larger is a slip


@dataclass(frozen=True, slots=True)
class Workload:
    """What is served.

    Attributes:
        batch: sequences decoded together.
        context: tokens in the cache of each at the step that is priced; budgets are stated here.
        generated: tokens that follow it; they count for memory only.

    Raises:
        VortexError: E302, a size that is not positive or an unknown type.
    """

    batch: int
    context: int
    generated: int = 0
    kv_dtype: str = "bf16"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.context < 1 or self.generated < 0:
            raise VortexError(
                f"a workload needs batch and context above 0, got batch {self.batch}, "
                f"context {self.context}, generated {self.generated}",
                code="E302",
            )
        if max(self.batch, self.context, self.generated) > MOST:
            raise VortexError(
                f"a workload of batch {self.batch}, context {self.context}, generated "
                f"{self.generated} is larger than any cache", code="E302",
                hint=f"each is at most {MOST:,}",
            )  # fmt: skip
        if self.kv_dtype not in KV_BYTES:
            raise VortexError(
                f"unknown KV type '{self.kv_dtype}'", code="E302", hint="use bf16 or fp8"
            )

    def __str__(self) -> str:
        return f"batch {self.batch}, context {self.context}, KV {self.kv_dtype}"
