"""Registration against a stand-in for SGLang, and what is refused when an engine starts."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from tests.centroid import centroid  # noqa: E402
from vortex.errors import VortexError  # noqa: E402
from vortex.serving.sglang import graphs, internals, plugin  # noqa: E402
from vortex.serving.sglang.backend import VortexBackend  # noqa: E402

PROGRAM = centroid(64)


class AttentionBackend:
    """Stands for SGLang's base class, and for its ``fa3``."""

    made: ClassVar[list[type]] = []

    def __init__(self, runner: Any = None) -> None:
        self.runner = runner

    @classmethod
    def register(cls, other: type) -> None:
        cls.made.append(other)

    def init_forward_metadata(self, forward_batch: Any) -> None: ...
    def init_forward_metadata_out_graph(
        self, forward_batch: Any, in_capture: bool = False
    ) -> None: ...
    def init_forward_metadata_in_graph(self, forward_batch: Any) -> None: ...
    def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int) -> None: ...
    def forward(self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any,
                save_kv_cache: bool = True) -> None: ...  # fmt: skip

    forward_decode = forward_extend = forward


class MHATokenToKVPool:
    """Two layers of a small cache."""

    start_layer, use_hnd, kv_cache_layout, post_capture_active = 0, False, "nhd", False

    def __init__(self) -> None:
        self.buffers = [torch.zeros(2, 160, 2, 32, dtype=torch.bfloat16) for _ in range(2)]

    def get_kv_buffer(self, layer_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.buffers[layer_id][0], self.buffers[layer_id][1]


class RadixAttention:
    """An attention layer of the model."""

    sliding_window_size, logit_cap, is_cross_attention, xai_temperature_len = -1, 0.0, False, -1
    qk_head_dim = v_head_dim = 32
    k_scale_float = v_scale_float = None
    attn_type = SimpleNamespace(value="decoder")

    def __init__(self, layer_id: int) -> None:
        self.layer_id, self.tp_q_head_num, self.tp_k_head_num = layer_id, 4, 2


@pytest.fixture
def sglang(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A minimal tree of modules with the names that are needed to register and to decode."""
    backends: dict[str, Any] = {"fa3": AttentionBackend, "triton": AttentionBackend}
    choices, chunked = ["fa3", "triton"], ["fa3"]

    def register_attention_backend(name: str) -> Callable[[Any], Any]:
        def put(factory: Any) -> Any:
            backends[name] = factory
            return factory

        return put

    def add_attention_backend_choices(choices: list[str]) -> None:
        args.ATTENTION_BACKEND_CHOICES.extend(choices)

    def add_chunked_prefix_cache_attention_backend(backend_name: str) -> None:
        chunked.append(backend_name)

    args = SimpleNamespace(
        ATTENTION_BACKEND_CHOICES=choices, ServerArgs=Settings,
        CHUNKED_PREFIX_CACHE_SUPPORTED_ATTENTION_BACKENDS=chunked,
        add_attention_backend_choices=add_attention_backend_choices,
        add_chunked_prefix_cache_attention_backend=add_chunked_prefix_cache_attention_backend,
    )  # fmt: skip
    tree = {
        internals._ARGS: args,
        internals._REGISTRY: SimpleNamespace(
            ATTENTION_BACKENDS=backends, register_attention_backend=register_attention_backend
        ),
        internals._BASE: SimpleNamespace(AttentionBackend=AttentionBackend),
        internals._POOLS: SimpleNamespace(
            MHATokenToKVPool=MHATokenToKVPool, MLATokenToKVPool=MHATokenToKVPool,
            ReqToTokenPool=object,
        ),
        "sglang.version": SimpleNamespace(__version__=internals.SUPPORTED[0]),
    }  # fmt: skip
    for name, content in tree.items():
        parts = name.split(".")
        for i in range(1, len(parts)):
            package = ".".join(parts[:i])
            if package not in tree:
                monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        module = types.ModuleType(name)
        module.__dict__.update(vars(content))
        monkeypatch.setitem(sys.modules, name, module)
    yield {"args": sys.modules[internals._ARGS], "backends": backends, "chunked": chunked}


@dataclasses.dataclass
class Settings:
    """Stands for ServerArgs."""

    attention_backend: str = "vortex"
    decode_attention_backend: str | None = None
    speculative_algorithm: str | None = None
    enable_hierarchical_cache: bool = False
    disaggregation_mode: str = "null"
    enable_mixed_chunk: bool = False
    tp_size: int = 1
    pp_size: int = 1
    cuda_graph_config: Any = None

    def get_attention_backends(self) -> tuple[str, str]:
        return self.attention_backend, self.decode_attention_backend or self.attention_backend

    def _get_default_attn_backend(self, use_mla_backend: bool, model_config: Any) -> str:
        return "fa3"


def runner(**settings: Any) -> Any:
    """Stands for a ModelRunner that has loaded a model and made its pools."""
    config = SimpleNamespace(
        is_encoder_decoder=False, has_attention_sinks=False, is_local_attention_model=False,
        num_hidden_layers=2, num_attention_heads=4, context_len=128,
        dtype=torch.bfloat16, hf_text_config=SimpleNamespace(),
        get_total_num_kv_heads=lambda: 2,
    )  # fmt: skip
    return SimpleNamespace(
        server_args=Settings(**settings), model_config=config, token_to_kv_pool=MHATokenToKVPool(),
        req_to_token_pool=SimpleNamespace(req_to_token=torch.zeros(3, 132, dtype=torch.int32)),
        page_size=16, use_mla_backend=False, is_draft_worker=False, is_hybrid_swa=False,
        ps=SimpleNamespace(tp_rank=0),
        model=SimpleNamespace(modules=lambda: [RadixAttention(0), RadixAttention(1)]),
    )  # fmt: skip


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    monkeypatch.setenv(internals.PROGRAM, str(path))
    monkeypatch.setenv(graphs.TWO, "0")
    return path


def refused(code: str, text: str, made: Any) -> None:
    with pytest.raises(VortexError, match=text) as raised:
        plugin.make_backend(made)
    assert raised.value.code == code
    assert "\n" not in raised.value.message


def test_the_name_is_registered_once_however_often(sglang: dict[str, Any]) -> None:
    for _ in range(3):
        plugin.register()
    assert sglang["args"].ATTENTION_BACKEND_CHOICES.count("vortex") == 1
    assert sglang["chunked"].count("vortex") == 1
    assert sglang["backends"]["vortex"] is plugin.make_backend


def test_registering_imports_nothing_heavy() -> None:
    """In every process of the engine; kernels are for the one that has the GPU."""
    import subprocess

    script = (
        "import sys; import vortex.serving.sglang.plugin; "
        "bad = {'triton', 'sglang', 'vortex.triton', 'numba'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=False, cwd=Path(__file__).parents[3])  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_backend_is_made_around_the_one_that_sglang_would_choose(
    sglang: dict[str, Any], program: Path
) -> None:
    made = plugin.make_backend(runner())
    assert isinstance(made, VortexBackend)
    assert type(made.inner) is AttentionBackend
    assert made.sparse.layers == {0, 1} and made.sparse.served.context == 128
    assert made.sparse.covered == 64 and not made.two_graphs
    assert VortexBackend in AttentionBackend.made


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"speculative_algorithm": "EAGLE"}, "speculative decoding"),
        ({"enable_hierarchical_cache": True}, "HiCache"),
        ({"disaggregation_mode": "decode"}, "disaggregation"),
        ({"enable_mixed_chunk": True}, "mixed chunks"),
        ({"pp_size": 2}, "pipeline"),
        ({"attention_backend": "fa3", "decode_attention_backend": "vortex"}, "must do both"),
        ({"cuda_graph_config": SimpleNamespace(prefill=SimpleNamespace(backend="full"))}, "full"),
    ],
)
def test_settings_that_would_give_wrong_answers_are_refused(
    sglang: dict[str, Any], program: Path, setting: dict[str, Any], text: str
) -> None:
    refused("E804", text, runner(**setting))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("sliding_window_size", 128, "sliding window"),
        ("logit_cap", 30.0, "caps its logits"),
        ("is_cross_attention", True, "no causal self-attention"),
        ("xai_temperature_len", 4, "by position"),
        ("tp_k_head_num", 1, "query and 1 KV heads"),
    ],
)
def test_layers_that_kernels_cannot_serve_are_refused(
    sglang: dict[str, Any], program: Path, name: str, value: Any, text: str
) -> None:
    made = runner()
    layers = [RadixAttention(0), RadixAttention(1)]
    for layer in layers:
        setattr(layer, name, value)
    made.model.modules = lambda: layers
    refused("E804", text, made)


def test_pools_pages_and_versions_that_are_not_known_are_refused(
    sglang: dict[str, Any], program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = runner()
    made.page_size = 24
    refused("E804", "do not divide", made)
    made = runner()
    made.token_to_kv_pool = type("SWAKVPool", (MHATokenToKVPool,), {})()
    refused("E804", "SWAKVPool", made)
    made = runner(tp_size=4)
    refused("E806", "not divided by 4 ranks", made)
    monkeypatch.setenv(internals.INNER, "vortex")
    refused("E804", "names no attention backend", runner())
    monkeypatch.setattr(sys.modules["sglang.version"], "__version__", "0.5.23")
    refused("E803", "0.5.23 is not supported; 0.5.16 is", runner())


def test_an_sglang_that_differs_inside_is_refused_by_name(
    sglang: dict[str, Any], program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys.modules[internals._POOLS], "ReqToTokenPool")
    refused("E803", "ReqToTokenPool is absent", runner())


def test_a_program_that_is_not_there_or_was_changed_is_refused(
    sglang: dict[str, Any], program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(internals.PROGRAM, str(tmp_path / "none"))
    refused("E801", "no program at", runner())
    monkeypatch.delenv(internals.PROGRAM)
    refused("E801", "is not set", runner())
    folder = tmp_path / "winner"
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    (folder / "program.json").write_text("{}")
    sums = {"format": 1, "sha256": {"program.py": "0" * 64}}
    (folder / "manifest.json").write_text(json.dumps(sums))
    monkeypatch.setenv(internals.PROGRAM, str(folder))
    refused("E802", "program.py was changed", runner())


@pytest.mark.parametrize(
    ("heads", "kv_heads", "ranks", "wanted"),
    [(16, 8, 1, (2, 8)), (16, 8, 8, (2, 1)), (48, 8, 4, (6, 2))],
)
def test_heads_are_shared_out_to_ranks_in_whole_groups(
    heads: int, kv_heads: int, ranks: int, wanted: tuple[int, int]
) -> None:
    from vortex.serving.sglang.bookkeeping import rank_heads

    assert rank_heads(heads, kv_heads, ranks, latent=False, shared=False) == wanted


@pytest.mark.parametrize(
    ("kv_heads", "ranks", "latent", "shared"), [(8, 16, False, False), (1, 2, True, False),
                                                (8, 2, False, True)]
)  # fmt: skip
def test_ranks_that_would_see_a_part_of_what_a_program_reads_are_refused(
    kv_heads: int, ranks: int, latent: bool, shared: bool
) -> None:
    from vortex.serving.sglang.bookkeeping import rank_heads

    with pytest.raises(VortexError) as raised:
        rank_heads(16, kv_heads, ranks, latent=latent, shared=shared)
    assert raised.value.code == "E806"
