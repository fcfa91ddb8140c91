"""Everything that the plugin relies on in SGLang's insides, checked when an engine starts.

Supported: 0.5.16. What newer versions change is noted below; none is supported until it
was run.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vortex.errors import ExitCode, VortexError
from vortex.geometry import rotary_columns
from vortex.serving.sglang.bookkeeping import rank_heads

SUPPORTED = ("0.5.16",)
NAME = "vortex"
PROGRAM, INNER = "SGLANG_VORTEX_PROGRAM", "SGLANG_VORTEX_INNER"

# What is known of 0.5.23, read and not run: the lists of choices moved to
# sglang.srt.arg_groups.choices (server_args re-exports them); drafts have a list of their own;
# get_verify_buffers_to_fill_after_draft became the property verify_mask; shared_read_ends(fm) says
# until when a backend reads req_to_token (we: before the replay, so nothing changes).

_BASE = "sglang.srt.layers.attention.base_attn_backend"
_REGISTRY = "sglang.srt.layers.attention.attention_registry"
_ARGS = "sglang.srt.server_args"
_POOLS = "sglang.srt.mem_cache.memory_pool"
_RUNNER = "sglang.srt.model_executor.runner.decode_cuda_graph_runner"
_MLA = "sglang.srt.models.deepseek_common"
_HOOKS = "sglang.srt.plugins.hook_registry"
CAPTURE = f"{_RUNNER}.DecodeCudaGraphRunner.capture_one_shape"
LOAD = f"{_RUNNER}.DecodeCudaGraphRunner.load_batch"
_ROW = ("self", "q", "k", "v", "layer", "forward_batch", "save_kv_cache")

# Module, name in it, parameters (None: no function); by what they are needed for.
NEEDED: dict[str, tuple[tuple[str, str, tuple[str, ...] | None], ...]] = {
    "registering": (
        (_REGISTRY, "ATTENTION_BACKENDS", None),
        (_REGISTRY, "register_attention_backend", ("name",)),
        (_ARGS, "ATTENTION_BACKEND_CHOICES", None),
        (_ARGS, "CHUNKED_PREFIX_CACHE_SUPPORTED_ATTENTION_BACKENDS", None),
        (_ARGS, "add_attention_backend_choices", ("choices",)),
        (_ARGS, "add_chunked_prefix_cache_attention_backend", ("backend_name",)),
    ),
    "decoding": (
        (_BASE, "AttentionBackend.init_forward_metadata", ("self", "forward_batch")),
        (_BASE, "AttentionBackend.init_forward_metadata_out_graph",
         ("self", "forward_batch", "in_capture")),
        (_BASE, "AttentionBackend.init_forward_metadata_in_graph", ("self", "forward_batch")),
        (_BASE, "AttentionBackend.init_cuda_graph_state", ("self", "max_bs", "max_num_tokens")),
        (_BASE, "AttentionBackend.forward", _ROW),
        (_BASE, "AttentionBackend.forward_decode", _ROW),
        (_BASE, "AttentionBackend.forward_extend", _ROW),
        (_POOLS, "ReqToTokenPool", None),
        (_POOLS, "MHATokenToKVPool.get_kv_buffer", ("self", "layer_id")),
        (_POOLS, "MLATokenToKVPool.get_kv_buffer", ("self", "layer_id")),
        (_ARGS, "ServerArgs.get_attention_backends", ("self",)),
        (_ARGS, "ServerArgs._get_default_attn_backend",
         ("self", "use_mla_backend", "model_config")),
    ),
    "MLA": (
        (f"{_MLA}.attention_backend_handler", "AttentionBackendRegistry.register",
         ("cls", "backend_name", "handler_func")),
        (f"{_MLA}.attention_backend_handler", "AttentionBackendRegistry.get_handler",
         ("cls", "backend_name")),
        (f"{_MLA}.utils", "FORWARD_ABSORB_CORE_ATTENTION_BACKENDS", None),
    ),
    "second graphs": (
        (_RUNNER, "DecodeCudaGraphRunner.capture_one_shape",
         ("self", "size", "forward", "stream_idx", "variant_label")),
        (_RUNNER, "DecodeCudaGraphRunner.load_batch",
         ("self", "forward_batch", "pp_proxy_tensors")),
        (_RUNNER, "ShapeKey", None),
        (_HOOKS, "HookRegistry.register", ("cls", "target", "hook", "hook_type", "source")),
        (_HOOKS, "HookRegistry.apply_hooks", ("cls",)),
        (_HOOKS, "HookRegistry._patched", None),
        (_HOOKS, "HookType.AROUND", None),
    ),
}  # fmt: skip

# Attributes that are read or written besides: module, class, names.
ATTRIBUTES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("sglang.srt.model_executor.model_runner", "ModelRunner",
     ("server_args", "model_config", "token_to_kv_pool", "req_to_token_pool", "page_size", "ps",
      "use_mla_backend", "model", "is_draft_worker", "is_hybrid_swa", "attn_backend")),
    ("sglang.srt.layers.radix_attention", "RadixAttention",
     ("layer_id", "scaling", "tp_q_head_num", "tp_k_head_num", "qk_head_dim", "v_head_dim",
      "sliding_window_size", "logit_cap", "is_cross_attention", "attn_type", "k_scale_float",
      "v_scale_float", "xai_temperature_len")),
    ("sglang.srt.model_executor.forward_batch_info", "ForwardBatch",
     ("forward_mode", "batch_size", "seq_lens", "seq_lens_cpu", "req_pool_indices",
      "out_cache_loc", "extend_prefix_lens_cpu", "extend_seq_lens_cpu")),
    ("sglang.srt.configs.model_config", "ModelConfig",
     ("context_len", "dtype", "hf_text_config", "num_hidden_layers", "num_attention_heads",
      "is_encoder_decoder", "has_attention_sinks", "is_local_attention_model")),
    (_POOLS, "ReqToTokenPool", ("req_to_token",)),
    (_POOLS, "KVCache", ("start_layer", "page_size")),
    (_POOLS, "MHATokenToKVPool", ("use_hnd", "kv_cache_layout", "post_capture_active")),
    (_RUNNER, "DecodeCudaGraphRunner", ("_replay_graph_key", "attn_backend")),
    ("sglang.srt.model_executor.runner.shape_key", "ShapeKey", ("variant_label",)),
)  # fmt: skip

# Settings of ServerArgs that are refused: name, what makes it so, what it is.
REFUSED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("speculative_algorithm", bool, "speculative decoding"),
    ("enable_hierarchical_cache", bool, "HiCache"),
    ("enable_lmcache", bool, "LMCache"),
    ("enable_flexkv", bool, "FlexKV"),
    ("disaggregation_mode", lambda x: x not in (None, "null"), "PD disaggregation"),
    ("enable_hisparse", bool, "HiSparse"),
    ("enable_mixed_chunk", bool, "mixed chunks (--enable-mixed-chunk)"),
    ("enable_pdmux", bool, "PD multiplexing"),
    ("enable_two_batch_overlap", bool, "two-batch overlap"),
    ("enable_dp_attention", bool, "data-parallel attention"),
    ("enable_torch_compile", bool, "torch.compile"),
    ("pp_size", lambda x: x > 1, "pipeline parallelism"),
    ("attn_cp_size", lambda x: x > 1, "context parallelism"),
    ("dcp_size", lambda x: x > 1, "context parallelism of decoding"),
    ("dllm_algorithm", bool, "diffusion language models"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """One attention layer of the loaded model, as this rank has it."""

    number: int
    heads: int
    kv_heads: int
    dim: int
    vdim: int


def unsupported(message: str, hint: str | None = None) -> VortexError:
    """E804: this engine is set up in a way that sparse decoding does not support."""
    return VortexError(message, code="E804", hint=hint, exit_code=ExitCode.ENVIRONMENT)


def check_version() -> None:
    """Refuse versions that this was not written for.

    Raises:
        VortexError: E803.
    """
    from sglang.version import __version__

    if __version__ not in SUPPORTED:
        raise VortexError(
            f"SGLang {__version__} is not supported; {', '.join(SUPPORTED)} is", code="E803",
            hint=f"pip install sglang=={SUPPORTED[-1]}", exit_code=ExitCode.ENVIRONMENT,
        )  # fmt: skip


def missing(need: str) -> Iterator[str]:
    """Names of SGLang that are not as this file assumes, with what is wrong."""
    for module, path, parameters in NEEDED[need]:
        try:
            found: Any = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError):
            yield f"{module}.{path} is absent"
            continue
        if parameters is None:
            continue
        plain = inspect.unwrap(found)
        given = tuple(inspect.signature(getattr(plain, "__func__", plain)).parameters)
        if given[: len(parameters)] != parameters:
            yield f"{module}.{path} takes {', '.join(given)}"


def check_names(*needs: str) -> None:
    """Refuse an SGLang whose insides differ from what this file says.

    Raises:
        VortexError: E803.
    """
    found = [text for need in needs for text in missing(need)]
    if found:
        raise VortexError(
            f"this SGLang differs inside: {'; '.join(found)}", code="E803",
            hint=f"pip install sglang=={SUPPORTED[-1]}", exit_code=ExitCode.ENVIRONMENT,
        )  # fmt: skip


def publish(factory: Callable[[Any], Any]) -> None:
    """Make the backend's name known, once: to the command line, the registry, prefix chunking."""
    args: Any = importlib.import_module(_ARGS)
    registry: Any = importlib.import_module(_REGISTRY)
    if NAME not in args.ATTENTION_BACKEND_CHOICES:
        args.add_attention_backend_choices([NAME])
    if NAME not in args.CHUNKED_PREFIX_CACHE_SUPPORTED_ATTENTION_BACKENDS:
        args.add_chunked_prefix_cache_attention_backend(NAME)
    registry.register_attention_backend(NAME)(factory)


def check_settings(runner: Any, page_size: int) -> None:
    """Refuse an engine whose settings are not supported.

    Args:
        runner: SGLang's ModelRunner, its pools allocated.
        page_size: of the program.

    Raises:
        VortexError: E804.
    """
    args, config, pool = runner.server_args, runner.model_config, runner.token_to_kv_pool
    for name, is_set, words in REFUSED:
        if is_set(getattr(args, name, None) or 0):
            raise unsupported(f"{words} is not supported with --attention-backend {NAME}")
    prefill, decode = args.get_attention_backends()
    if prefill != NAME or decode != NAME:
        raise unsupported(
            f"'{NAME}' must do both: prefill is '{prefill}' and decode '{decode}'",
            f"--attention-backend {NAME}, and {INNER}={prefill if prefill != NAME else decode}",
        )
    graphs = getattr(args, "cuda_graph_config", None)
    if graphs is not None and str(getattr(graphs.prefill, "backend", "")).endswith("full"):
        raise unsupported("full CUDA graphs of prefill are not supported",
                          "--cuda-graph-backend-prefill breakable")  # fmt: skip
    if getattr(runner, "is_draft_worker", False):
        raise unsupported("a draft model cannot use it")
    if config.is_encoder_decoder:
        raise unsupported("encoder-decoder models are not supported")
    if getattr(config, "has_attention_sinks", False):
        raise unsupported("attention sinks are not supported")
    if getattr(runner, "is_hybrid_swa", False) or getattr(config, "is_local_attention_model", 0):
        raise unsupported("sliding-window and local attention layers are not supported")
    if type(pool).__name__ not in ("MHATokenToKVPool", "MLATokenToKVPool"):
        raise unsupported(f"a cache of the kind {type(pool).__name__} is not supported")
    if getattr(pool, "dtype", None) == torch.float8_e5m2:
        raise unsupported("a cache of fp8_e5m2 is not supported", "--kv-cache-dtype fp8_e4m3")
    if getattr(pool, "use_hnd", False) or getattr(pool, "kv_cache_layout", "nhd") != "nhd":
        raise unsupported("only the cache layout [token, head, dim] is supported",
                          "unset SGLANG_USE_HND_KVCACHE")  # fmt: skip
    if getattr(pool, "post_capture_active", False):
        raise unsupported("a cache that is resized after capture is not supported",
                          "unset SGLANG_ENABLE_POST_CAPTURE_KV_SIZING")  # fmt: skip
    if runner.page_size % page_size:
        raise unsupported(
            f"the program's pages of {page_size} tokens do not divide the engine's of "
            f"{runner.page_size}", f"--page-size {page_size}",
        )  # fmt: skip


def attention_layers(runner: Any) -> dict[int, Layer]:
    """The attention layers that write the cache, checked, by global number.

    Raises:
        VortexError: E804, a layer does what sparse decoding does not.
    """
    found: dict[int, Layer] = {}
    buffer = runner.token_to_kv_pool.get_kv_buffer(runner.token_to_kv_pool.start_layer)[0]
    for module in runner.model.modules():
        if type(module).__name__ != "RadixAttention" or module.qk_head_dim != buffer.shape[-1]:
            continue  # on MLA, prefill has a layer of its own beside each
        _check_layer(module, buffer)
        found[int(module.layer_id)] = Layer(
            int(module.layer_id), module.tp_q_head_num, module.tp_k_head_num, module.qk_head_dim,
            module.v_head_dim,
        )  # fmt: skip
    shapes = {(x.heads, x.kv_heads, x.dim, x.vdim) for x in found.values()}
    if len(shapes) != 1 or len(found) != runner.model_config.num_hidden_layers:
        raise unsupported(
            f"{len(found)} of {runner.model_config.num_hidden_layers} layers are attention layers "
            f"of one shape (shapes found: {len(shapes)})"
        )
    return found


def _check_layer(layer: Any, buffer: Tensor) -> None:
    where = f"layer {layer.layer_id}"
    if layer.sliding_window_size is not None and layer.sliding_window_size > -1:
        raise unsupported(f"{where} has a sliding window")
    if layer.logit_cap:
        raise unsupported(f"{where} caps its logits")
    if layer.is_cross_attention or str(getattr(layer.attn_type, "value", "decoder")) != "decoder":
        raise unsupported(f"{where} is no causal self-attention")
    if getattr(layer, "xai_temperature_len", -1) > 0:
        raise unsupported(f"{where} scales its logits by position")
    scales = (getattr(layer, "k_scale_float", None), getattr(layer, "v_scale_float", None))
    if buffer.element_size() == 1 and any(s not in (None, 1.0) for s in scales):
        raise unsupported(f"{where} scales its cache, which sparse layers do not take")


def rotary(runner: Any, dim: int) -> int:
    """Columns of a head of grouped queries that the model rotates."""
    return rotary_columns(vars(runner.model_config.hf_text_config), dim) or dim


def heads_of(runner: Any, layer: Layer, *, shared: bool) -> tuple[int, int]:
    """Query heads of a KV head, and KV heads of this rank; see ``rank_heads``."""
    config, ranks = runner.model_config, runner.server_args.tp_size
    latent = bool(runner.use_mla_backend)
    total = 1 if latent else int(config.get_total_num_kv_heads())
    group, kv_heads = rank_heads(
        int(config.num_attention_heads), total, ranks, latent=latent, shared=shared
    )
    if (layer.heads, layer.kv_heads) != (group * kv_heads, kv_heads):
        raise unsupported(f"a rank has {layer.heads} query and {layer.kv_heads} KV heads, "
                          f"not {group * kv_heads} and {kv_heads}")  # fmt: skip
    return group, kv_heads


def inner_name(runner: Any) -> str:
    """The backend to wrap: named by the user, or the best that SGLang has for the model.

    Raises:
        VortexError: E804, the name is none, or the engine's pages do not suit it.
    """
    registry: Any = importlib.import_module(_REGISTRY)
    name = os.environ.get(INNER, "")
    if not name and runner.use_mla_backend and runner.page_size == 64:
        name = "flashmla"
    elif not name:
        latent = bool(runner.use_mla_backend)
        name = runner.server_args._get_default_attn_backend(latent, runner.model_config)
    if name == NAME or name not in registry.ATTENTION_BACKENDS:
        raise unsupported(f"{INNER} names no attention backend of SGLang: {name[:40]!r}")
    if name == "flashmla" and runner.page_size != 64:
        raise unsupported("flashmla has pages of 64 tokens", "--page-size 64")
    return str(name)


def inner_backend(runner: Any, name: str) -> Any:
    """Make the wrapped backend; on MLA, models treat ours as they treat it."""
    registry: Any = importlib.import_module(_REGISTRY)
    if runner.use_mla_backend:
        check_names("MLA")
        handlers = importlib.import_module(f"{_MLA}.attention_backend_handler")
        apart = importlib.import_module(f"{_MLA}.utils").FORWARD_ABSORB_CORE_ATTENTION_BACKENDS
        table = handlers.AttentionBackendRegistry
        table.register(NAME, table.get_handler(name))
        if name in apart and NAME not in apart:
            apart.append(NAME)
    return registry.ATTENTION_BACKENDS[name](runner)


def adopt(backend: type) -> None:
    """Let ``isinstance`` take our class for one of SGLang's backends."""
    base: Any = importlib.import_module(_BASE)
    base.AttentionBackend.register(backend)
