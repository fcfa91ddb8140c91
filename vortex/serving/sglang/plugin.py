"""The entry point: makes ``--attention-backend vortex`` exist in an unedited SGLang."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from vortex.errors import VortexError
from vortex.serving.sglang import internals

_log = logging.getLogger(__name__)


def register() -> None:
    """Make the backend's name known; runs in every process of SGLang, any number of times.

    Nothing of a GPU is touched here: what is heavy is imported when a runner makes the backend.
    """
    internals.publish(make_backend)


def make_backend(runner: Any) -> Any:
    """The backend of one rank.

    Args:
        runner: SGLang's ModelRunner: model loaded, pools allocated.

    Raises:
        VortexError: E801 to E807, it cannot be; said in one line of the log, too.
    """
    try:
        return _made(runner)
    except VortexError as error:
        hint = f" ({error.hint})" if error.hint else ""
        _log.error("vortex: error[%s]: %s%s", error.code, error.message, hint)
        raise


def _made(runner: Any) -> Any:
    from vortex.exported import read_exported
    from vortex.serving.sglang import graphs
    from vortex.serving.sglang.backend import VortexBackend
    from vortex.serving.sglang.cheaper import bound_of, dense_bounds
    from vortex.serving.sglang.sparse import SparseDecode
    from vortex.serving.sglang.tap import Tap

    internals.check_version()
    internals.check_names("registering", "decoding")
    folder = os.environ.get(internals.PROGRAM)
    if not folder:
        raise VortexError(
            f"no program to serve: {internals.PROGRAM} is not set", code="E801",
            hint="name a folder that `vortex-search export` wrote",
        )  # fmt: skip
    exported = read_exported(Path(folder))
    candidate = exported.candidate
    internals.check_settings(runner, candidate.page_size)
    served, layers = _served(runner, shared=bool(candidate.policies.shared))
    name = internals.inner_name(runner)
    inner = internals.inner_backend(runner, name)
    pool = runner.token_to_kv_pool
    table = runner.req_to_token_pool.req_to_token
    pools = {n: pool.get_kv_buffer(n) for n in layers}
    sparse = SparseDecode(candidate, served, pools, requests=len(table))
    cached = "fp8" if next(iter(pools.values()))[0].element_size() == 1 else "bf16"
    covered, bounds = 0, tuple[int, ...]()
    if sparse.layers and not candidate.states:  # which dense steps would leave as they are
        covered, bounds = sparse.covered, dense_bounds(candidate, served, cached, inner=name)
    internals.adopt(VortexBackend)
    backend = VortexBackend(
        inner, sparse, table,
        attends_all=graphs.rule(covered, bounds), tap=Tap.of(sparse, runner.ps.tp_rank),
        dtype=runner.model_config.dtype,
    )  # fmt: skip
    if not sparse.layers:
        _log.warning("vortex: no layer of this model is sparse under %s", exported.name)
    two = graphs.capture_twice(backend, runner)
    _log.info(
        "vortex: %s (%s): %d of %d layers sparse, pages of %d tokens, %.2f GB of page fields; "
        "prefill and dense layers by %s; graphs of dense steps: %s; full attention is served to "
        "1, 8 and 64 sequences of up to %s tokens, where it is predicted to be the cheaper",
        exported.name, candidate.candidate_hash[:12], len(sparse.layers), served.layers,
        candidate.page_size, sparse.field_bytes / 1e9, name, "yes" if two else "no",
        ", ".join(str(max(covered, bound_of(bounds, rows))) for rows in (1, 8, 64)),
    )  # fmt: skip
    return backend


def _served(runner: Any, *, shared: bool) -> tuple[Any, list[int]]:
    """Shapes of the model on this rank, and its layers."""
    import torch

    from vortex.serving.sglang.sparse import Served

    layers = internals.attention_layers(runner)
    one = next(iter(layers.values()))
    group, kv_heads = internals.heads_of(runner, one, shared=shared)
    latent = bool(runner.use_mla_backend)
    rope = (one.vdim, one.dim - one.vdim) if latent else (0, internals.rotary(runner, one.dim))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return Served(
        "mla" if latent else "gqa", len(layers), group, kv_heads, one.dim, one.vdim, rope,
        int(runner.model_config.context_len), device,
    ), sorted(layers)  # fmt: skip
