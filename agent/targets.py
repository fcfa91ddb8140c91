"""Which model a search is for, and which one can really be run here."""

from __future__ import annotations

from pathlib import Path

from evals.models.fetch import PACKAGED
from vortex.geometry import geometry

STANDIN = "smollm2-135m"


def accuracy_model_for(target: str) -> str:
    """The target itself where its weights are here, else the stand-in.

    Raises:
        VortexError: E401 or E404, the target is unknown or no checkpoint.
    """
    geometry(target)
    if target in PACKAGED:
        return target
    path = Path(target).expanduser()
    return str(path) if path.exists() else STANDIN


def standin_note(target: str, accuracy_model: str) -> str:
    """What must be said when accuracy comes from another model; '' otherwise."""
    if target == accuracy_model:
        return ""
    mla = " (a GQA model: its keys are not the target's MLA latent)"
    kind = mla if geometry(target).kind == "mla" else ""
    return (
        f"accuracy is measured on the stand-in {accuracy_model}{kind}, with budgets scaled to its "
        f"contexts; times are predicted for {target}"
    )
