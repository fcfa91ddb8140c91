"""Which model a search is for, and which one can really be run here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evals.models.factored import loss_note
from evals.models.fetch import DERIVED, NAMES, PACKAGED, cached_path
from evals.models.fit import obtain
from runs.records import RunConfig
from vortex.geometry import geometry

STANDIN, MLA_STANDIN = "smollm2-135m", "smollm2-135m-mla"


def accuracy_model_for(target: str) -> str:
    """The target itself where its weights are here, else the stand-in of its kind of attention.

    Raises:
        VortexError: E401 or E404, the target is unknown or no checkpoint.
    """
    kind = geometry(target).kind
    if target in PACKAGED:
        return target
    path = Path(target).expanduser()
    if path.exists() and kind != "mla":
        return str(path)
    return MLA_STANDIN if kind == "mla" else STANDIN


def fetched(accuracy_model: str, say: Callable[[str], None]) -> None:
    """See that the model that runs is on this machine: workers cannot write or download.

    Raises:
        VortexError: E407 to E409, it cannot be had.
    """
    if accuracy_model in NAMES:
        obtain(accuracy_model, say)


def standin_note(target: str, accuracy_model: str) -> str:
    """What must be said when accuracy comes from another model; '' otherwise."""
    if target == accuracy_model:
        return ""
    return (
        f"accuracy is measured on the stand-in {accuracy_model}{_form(target, accuracy_model)}, "
        f"with budgets scaled to its contexts; times are those of {target}"
    )


def notes_of(config: RunConfig) -> list[str]:
    """What must be said before a run begins: a stand-in, and a cap that caps nothing here."""
    notes = (standin_note(config.model, config.accuracy_model), cap_note(config))
    return [f"note: {text}" for text in notes if text]


def cap_note(config: RunConfig) -> str:
    """What must be said of a cap on GPU time where no GPU is used; '' otherwise."""
    if config.gpu_seconds is None or config.on_gpu:
        return ""
    return f"--gpu-seconds caps nothing: candidates run on {config.device}; --minutes caps time"


def _form(target: str, accuracy_model: str) -> str:
    if accuracy_model in DERIVED:
        cost = loss_note(cached_path(accuracy_model)) or "its loss is not known on this machine"
        return f" (an MLA form of {DERIVED[accuracy_model]} with factored keys; {cost})"
    if geometry(target).kind == "mla":
        return " (a GQA model: its keys are not the target's MLA latent)"
    return ""
