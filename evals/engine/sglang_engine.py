"""SGLang in this process: the plugin's engine with its switch, or one with a plain backend."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.engine.engine import Completion, Mode, Request, digest, failed, gathered
from vortex.errors import ExitCode, VortexError, printable

if TYPE_CHECKING:
    from vortex.serving.sglang.check import Switch

_PLUGINS, _OURS = "sglang.srt.plugins", "vortex"
_PROGRAM, _SWITCH = "SGLANG_VORTEX_PROGRAM", "SGLANG_VORTEX_SWITCH"
_TWO, _BARS = "SGLANG_VORTEX_TWO_GRAPHS", "TQDM_DISABLE"
INNER = "SGLANG_VORTEX_INNER"  # full attention's backend, where SGLang is not to choose


class ChildDied(KeyboardInterrupt):
    """A process of SGLang ended; of a kind that no event loop swallows."""


def child_died(signum: int, frame: Any) -> None:
    """In place of SGLang's handler, which kills this process too."""
    raise ChildDied("one of its processes ended")


@dataclass(frozen=True)
class Setup:
    """How to start SGLang.

    Attributes:
        model: a Hugging Face folder; without ``weights`` its config.json is enough.
        export: the program's folder; None for full attention alone.
        weights: whether the folder's weights are loaded; else random ones are drawn.
        backend: of full attention alone; None for SGLang's own choice.
        page_size: of the KV cache, in tokens.
        memory: share of the device's memory for weights and cache; the same for all that is
            compared.
        context: longest sequence; None for the model's.
        more: other arguments of ``sglang.Engine``.
    """

    model: Path
    export: Path | None
    weights: bool
    page_size: int
    backend: str | None = None
    memory: float = 0.8
    context: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Of ``sglang.Engine``."""
        found: dict[str, Any] = {
            "model_path": str(self.model), "page_size": self.page_size, "log_level": "error",
            "mem_fraction_static": self.memory, "random_seed": 1, "stream_interval": 1,
        }  # fmt: skip
        name = _OURS if self.export else self.backend
        found |= {"attention_backend": name} if name else {}
        found |= {"context_length": self.context} if self.context else {}
        if not self.weights:
            found |= {"load_format": "dummy", "skip_tokenizer_init": True}
        return found | dict(self.more)


class SGLangEngine:
    """An engine of SGLang in this process and its children.

    With an export, one engine serves both modes: a switch chooses, step by step, between sparse
    decoding and the inner backend's own full attention. Seeds of samples count in SGLang only with
    its deterministic inference.

    Raises:
        VortexError: E903, SGLang or the plugin is not installed, or it does not start.
    """

    def __init__(self, setup: Setup) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="vortex-engine-"))
        self._kept = {k: os.environ.get(k) for k in (_PROGRAM, _SWITCH, _TWO, _BARS)}
        self._quit = signal.getsignal(signal.SIGQUIT)
        self._engine: Any = None
        self._switch: Switch | None = None
        self.modes: tuple[Mode, ...] = ("full", "sparse") if setup.export else ("full",)
        try:
            self._start(setup)
        except BaseException:
            self.close()
            raise
        self.facts: Mapping[str, str] = _facts(setup)
        self._by_text = not setup.arguments().get("skip_tokenizer_init", False)

    def _start(self, setup: Setup) -> None:
        os.environ.setdefault(_BARS, "1")  # hundreds of lines of them in a log
        logging.getLogger("transformers").setLevel(logging.ERROR)  # warns of drafts of prompts
        warnings.filterwarnings("ignore", "resource_tracker: process died")  # SGLang ends it
        try:
            import sglang
        except ImportError as error:
            raise _absent(f"SGLang cannot be imported: {error}") from None
        if setup.export:
            names = importlib.metadata.entry_points(group=_PLUGINS).names
            if _OURS not in names:
                raise _absent("SGLang does not see the plugin: vortex-search is not installed")
            from vortex.serving.sglang.check import Switch

            self._switch = Switch(self._scratch / "switch")
            os.environ |= {
                _PROGRAM: str(setup.export.resolve()), _SWITCH: str(self._scratch / "switch"),
                _TWO: "1",
            }  # fmt: skip
        try:
            self._engine = sglang.Engine(**setup.arguments(), custom_sigquit_handler=child_died)
        except (Exception, ChildDied) as error:  # whatever the package raises
            raise VortexError(
                f"SGLang does not start: {printable(str(error), limit=400)}", code="E903",
                hint="its log above says more", exit_code=ExitCode.ENVIRONMENT,
            ) from None  # fmt: skip
        manager = self._engine.tokenizer_manager
        theirs = getattr(manager, "signal_handler_class", None)
        if isinstance(theirs, type):  # what it installs with the first request
            own = {"running_phase_sigquit_handler": lambda *_: child_died(signal.SIGQUIT, None)}
            manager.signal_handler_class = type("Handlers", (theirs,), own)

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, by the served model's tokenizer."""
        return list(self._engine.tokenizer_manager.tokenizer.encode(text))

    @property
    def chats(self) -> bool:
        """Whether the model has a chat format."""
        tokenizer = self._engine.tokenizer_manager.tokenizer
        return bool(getattr(tokenizer, "chat_template", None))

    def chat(self, text: str) -> str:
        """A text as a user's turn in the model's own format.

        Raises:
            VortexError: E904, it has none.
        """
        if not self.chats:
            raise failed("the model has no chat format", "ask without --chat")
        turn = [{"role": "user", "content": text}]
        made = self._engine.tokenizer_manager.tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True
        )
        text, tokenizer = str(made), self._engine.tokenizer_manager.tokenizer
        first, number = (getattr(tokenizer, n, None) for n in ("bos_token", "bos_token_id"))
        if first and text.startswith(first) and self.encode(text)[:2] == [number] * 2:
            text = text[len(first) :]  # the tokenizer puts its own before the format's
        return text

    def use(self, mode: Mode) -> None:
        """See Engine."""
        if self._switch is not None:
            self._switch("d" if mode == "full" else "s")

    def generate(
        self, requests: Sequence[Request], *, stream: bool = True, at_once: int | None = None
    ) -> list[Completion]:
        """See Engine.

        Raises:
            VortexError: E904.
        """
        try:
            found: list[Completion] = self._engine.loop.run_until_complete(
                gathered(lambda r, began: self._one(r, began, stream), requests, at_once)
            )
        except VortexError:
            raise
        except ChildDied as error:
            self._abandon()
            raise failed(f"SGLang failed: {error}") from None
        except Exception as error:  # whatever the package raises
            raise failed(f"SGLang failed: {printable(str(error), limit=400)}") from None
        return found

    def _abandon(self) -> None:
        """End what still waits for an engine that will never answer."""
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # others of its processes end too
        loop = self._engine.loop
        for _ in range(3):  # each task that the death met raises it once more
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            with contextlib.suppress(ChildDied):
                loop.run_until_complete(asyncio.wait(tasks, timeout=5) if tasks else _nothing())

    async def _one(self, request: Request, began: float, stream: bool) -> Completion:
        prompt, s = request.prompt, request.sampling
        if isinstance(prompt, str) and not self._by_text:
            raise failed("an engine without a tokenizer was given text")
        key, value = ("prompt", prompt) if isinstance(prompt, str) else ("input_ids", list(prompt))
        sampling = {
            "max_new_tokens": s.tokens, "temperature": s.temperature, "top_p": s.top_p,
            "ignore_eos": s.ignore_end, "sampling_seed": s.seed,
        }  # fmt: skip
        sent = time.perf_counter()
        made = await self._engine.async_generate(
            **{key: value}, sampling_params=sampling, stream=stream
        )
        arrivals: list[tuple[float, int]] = []
        ids: list[int] = []
        last: Any = None
        async for chunk in made if stream else _single(made):
            meta, came = chunk["meta_info"], list(chunk.get("output_ids") or ())
            count = int(meta["completion_tokens"])
            # Chunks hold all tokens so far, or the new ones, by a setting of the engine.
            ids = came if len(came) >= count else ids + came
            if count and (not arrivals or count > arrivals[-1][1]):
                arrivals.append((time.perf_counter() - sent, count))
            last = chunk
        if last is None or not arrivals:
            raise failed("SGLang ended a request without a token")
        meta = last["meta_info"]
        reason = meta.get("finish_reason")
        kind = str(reason.get("type") if isinstance(reason, dict) else reason)
        if kind == "abort":
            raise failed(f"SGLang gave up a request: {printable(str(reason), limit=300)}")
        return Completion(
            str(last.get("text") or ""), tuple(ids), arrivals[-1][1], kind, sent - began,
            tuple(arrivals), meta.get("prompt_tokens"), meta.get("cached_tokens"),
        )  # fmt: skip

    def close(self) -> None:
        """See Engine."""
        engine, self._engine = self._engine, None
        switch, self._switch = self._switch, None
        try:
            if engine is not None:
                engine.shutdown()
        finally:
            if switch is not None:
                switch.close()
            self._restore()

    def _restore(self) -> None:
        """Signals, environment and files, as they were."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGQUIT, self._quit)
        for name, value in self._kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(self._scratch, ignore_errors=True)


async def _nothing() -> None:
    pass


async def _single(chunk: Any) -> AsyncIterator[Any]:
    yield chunk


def _facts(setup: Setup) -> dict[str, str]:
    """What decides an engine's numbers."""
    import torch

    found = {
        "engine": f"sglang {_version('sglang')}", "torch": torch.__version__,
        "vortex-search": _version("vortex-search"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "model": setup.model.name, "config": _config_digest(setup.model),
        "weights": "real" if setup.weights else "random",
    }  # fmt: skip
    if setup.weights:
        found["checkpoint"] = _checkpoint_digest(setup.model)
    if setup.export and os.environ.get(INNER):
        found["inner_backend"] = os.environ[INNER]
    return found | {
        k: str(v) for k, v in setup.arguments().items() if k not in ("model_path", "log_level")
    }


def _config_digest(folder: Path) -> str:
    try:
        return digest(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return "unknown"


def _checkpoint_digest(folder: Path) -> str:
    """Of the files of weights and tokenizer, by what a copy of them keeps and another lacks."""
    files = sorted(p for n in ("*.safetensors", "token*") for p in folder.glob(n) if p.is_file())
    return digest([[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _absent(why: str) -> VortexError:
    return VortexError(
        why, code="E903", exit_code=ExitCode.ENVIRONMENT,
        hint="pip install 'vortex-search[sglang]' on a machine with a GPU, or name a server that "
        "runs by --url",
    )  # fmt: skip
