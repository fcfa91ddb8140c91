"""A run's configuration from options and a file; what is wrong with it is said together."""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from agent.commands.program_file import require_contexts
from agent.devices import priced_device, run_device
from agent.llm.recruit import check_agents
from agent.providers.named import parse_agent
from agent.providers.prices import parse_price
from agent.targets import accuracy_model_for
from runs.records import RunConfig
from search_spaces.block_topk import seeds
from vortex.devices import device as device_named
from vortex.errors import VortexError, printable
from vortex.workload import Workload

_LARGEST, _SHOWN = 2.0**53, 8
_HINT = "vortex-search start --help lists the options"
# What says something to language models alone, and its option.
_FOR_MODELS = {
    "max_cost": "--max-cost", "max_tokens": "--max-tokens", "prices": "--price",
    "parallel_turns": "--parallel-turns", "fill": "--fill", "strategy": "--strategy independent",
}  # fmt: skip
_T = TypeVar("_T")


def make_config(file: Path | None, options: Mapping[str, Any]) -> RunConfig:
    """The configuration from a TOML file, overridden by what the command line says.

    Args:
        options: by name, in the order in which they were given; None or () where one was not.

    Raises:
        VortexError: with all that is wrong, and the code of what was given first: E303, a value
            makes no sense; E401 to E404, E413 for models and devices; E301, the seeds; E702 to
            E708 for language models.
    """
    given = {k: v for k, v in options.items() if v is not None and v != ()}
    values = _read(file) | given
    wrong: dict[str, VortexError] = {}

    def found(name: str, made: Callable[[], _T]) -> _T | None:
        try:
            return made()
        except VortexError as error:
            wrong[name] = error
            return None

    values["agents"] = found("agents", lambda: _agents(values)) or ()
    values["prices"] = found("prices", lambda: _prices(values.get("prices") or ())) or {}
    values["sweep"] = found("sweep", lambda: _sweep(values.get("sweep", ()))) or ()
    contexts = values.pop("contexts", None)
    if contexts is not None:
        values["rungs"] = found("contexts", lambda: rungs_for(int(contexts))) or (3,)
    target = values.get("model", RunConfig().model)
    accuracy = found("model", lambda: accuracy_model_for(target))
    values.setdefault("accuracy_model", accuracy or target)
    device = values["device"] = found("device", lambda: run_device(values.get("device"))) or "cpu"
    priced = values.setdefault("price_for", priced_device(device))
    found("price_for", lambda: device_named(priced))
    folder = values.get("seeds_dir")
    if isinstance(folder, str) and folder:
        found("seeds_dir", lambda: seeds(Path(folder)))
    if device != "cpu":
        values.setdefault("workers", max(2, min(8, (os.cpu_count() or 2) // 2)))
    config = _validated(values, wrong)
    if not values["agents"] and "agents" not in wrong:
        idle = [n for n in _idle(values) if n not in wrong]
        if idle:
            wrong[idle[0]] = _no_models(idle)
    if config is None or wrong:
        raise _together(wrong, [*given, *values])
    check_agents(config)
    return config


def _read(file: Path | None) -> dict[str, Any]:
    """What a TOML file says.

    Raises:
        VortexError: E303, it cannot be read, or holds a value of the wrong kind.
    """
    if file is None:
        return {}
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or str(error)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = str(error)
    else:
        _check_kinds(values)
        return values
    raise VortexError(
        f"cannot read {file}: {why}", code="E303", hint="--config names a TOML file in UTF-8"
    )


def _check_kinds(values: Mapping[str, Any]) -> None:
    """What a file may hold at names that are read before the configuration is checked.

    Raises:
        VortexError: E303, a value of another kind.
    """
    texts, lists = ("model", "accuracy_model", "device", "price_for"), ("agent", "agents")
    kinds: dict[str, Any] = {**dict.fromkeys(texts, str), **dict.fromkeys(lists, str | list)}
    kinds |= {"sweep": str | list, "prices": list | dict, "contexts": int}
    for name, kind in kinds.items():
        value = values.get(name)
        if value is not None and not isinstance(value, kind):
            raise VortexError(
                f"{name}: {printable(repr(value), limit=60)} is of the wrong kind", code="E303",
                hint=_HINT,
            )  # fmt: skip


def _agents(values: dict[str, Any]) -> tuple[str, ...]:
    """Models as the configuration keeps them."""
    several, one = values.pop("agents", None), values.pop("agent", None)
    agents = several or one or ()
    listed = (agents,) if isinstance(agents, str) else agents
    return tuple(parse_agent(str(a)).name for a in listed)


def _prices(prices: Mapping[str, Any] | Sequence[Any]) -> Mapping[str, Any]:
    """Prices as the configuration keeps them."""
    if isinstance(prices, Mapping):
        return prices
    parsed = [parse_price(str(p)) for p in prices]
    return {m: (p.input, p.cached, p.written, p.output) for m, p in parsed}


def _sweep(budgets: str | Sequence[Any]) -> tuple[int, ...]:
    """Budgets of ``--sweep``."""
    found: tuple[int, ...] = () if not budgets else (0,)  # unless it can be read
    if isinstance(budgets, str):
        with contextlib.suppress(ValueError):
            found = tuple(int(x) for x in budgets.split(",") if x)
    elif all(isinstance(x, int) and not isinstance(x, bool) for x in budgets):
        found = tuple(int(x) for x in budgets)
    if not all(0 < x < _LARGEST for x in found):
        raise VortexError(
            f"sweep: {printable(str(budgets), limit=60)} is no list of budgets", code="E303",
            hint="--sweep 1024,2048",
        )  # fmt: skip
    return found


def rungs_for(contexts: int) -> tuple[int, ...]:
    """Racing: an eighth of the contexts (at least 3), a third, all.

    Raises:
        VortexError: E303, too few or too many.
    """
    if contexts < 3:
        raise VortexError("errors need at least 3 contexts", code="E303", hint="--contexts 12")
    require_contexts(contexts)
    return tuple(sorted({max(3, contexts // 8), max(3, contexts // 3), contexts}))


def _validated(values: dict[str, Any], wrong: dict[str, VortexError]) -> RunConfig | None:
    """The configuration; what is wrong with its values is added to ``wrong``, once for a name."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        for e in error.errors():
            place, name = ".".join(map(str, e["loc"])), str(e["loc"][0] if e["loc"] else "")
            said = VortexError(f"{place}: {e['msg']}", code="E303", hint=_HINT)
            wrong.setdefault(name, said)
        return None
    except OverflowError:
        wrong.setdefault("", VortexError("a number is too large", code="E303", hint=_HINT))
        return None
    for name, value in values.items():
        if isinstance(value, int | float) and not -_LARGEST < value < _LARGEST:
            wrong.setdefault(name, _unusable(name, value))
    for model, figures in config.prices.items():
        if not all(0 <= x < _LARGEST for x in figures):
            wrong.setdefault("prices", VortexError(
                f"{printable(model, limit=80)!r} has no price like this", code="E704",
                hint="dollars for a million tokens, none below 0",
            ))  # fmt: skip
    try:
        Workload(config.batch, config.context, kv_dtype=config.kv_dtype)
    except VortexError as error:
        wrong.setdefault("batch" if config.batch > config.context else "context", error)
    return config


def changed(config: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    """A run's configuration with other caps.

    Raises:
        VortexError: E303, with all that is wrong.
    """
    wrong: dict[str, VortexError] = {}
    found = _validated({**config.model_dump(), **given}, wrong)
    idle = [] if config.agents else [n for n in _idle(given) if n not in wrong]
    if idle:
        wrong[idle[0]] = _no_models(idle)
    if found is None or wrong:
        raise _together(wrong, list(given))
    return found


def _unusable(name: str, value: float) -> VortexError:
    return VortexError(f"{name}: {value} is no usable number", code="E303", hint=_HINT)


def _idle(values: Mapping[str, Any]) -> list[str]:
    """Names of values that say something to language models alone."""
    said = [n for n in _FOR_MODELS if values.get(n) not in (None, (), {})]
    return [n for n in said if n != "strategy" or values[n] != "search"]


def _no_models(idle: Sequence[str]) -> VortexError:
    return VortexError(
        f"{', '.join(_FOR_MODELS[n] for n in idle)}: for language models, and no --agent is named",
        code="E303",
        hint="name one, as --agent openai:NAME@http://127.0.0.1:8000/v1, or leave it out",
    )


def _together(wrong: Mapping[str, VortexError], order: Sequence[str]) -> VortexError:
    """One error of several, in the order in which their values were given."""
    found = sorted(wrong.items(), key=lambda x: order.index(x[0]) if x[0] in order else len(order))
    errors = [error for _, error in found]
    first = errors[0]
    if len(errors) == 1:
        return first
    more = [
        e.message if e.code == first.code else f"{e.message} [{e.code}]" for e in errors[1:_SHOWN]
    ]
    return VortexError(
        "; ".join([first.message, *more]), code=first.code, hint=_HINT, exit_code=first.exit_code
    )
