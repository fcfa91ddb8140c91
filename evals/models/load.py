"""One door to every model that can be run here: by name, GGUF file or checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from evals.models.factored import FactoredMla, read_factors
from evals.models.fetch import DERIVED, NAMES, PACKAGED, cached_path
from evals.models.gguf_file import load_gguf
from evals.models.huggingface import load_folder
from evals.models.transformer import Transformer
from vortex.errors import VortexError


def load_model(name_or_path: str) -> Transformer:
    """A model ready to run.

    Raises:
        VortexError: E403 to E405 not a model, E410 not fetched yet, E411 unknown, E412 factors that
            do not fit.
    """
    if name_or_path in NAMES:
        path = cached_path(name_or_path)
        if not path.is_file():
            raise VortexError(
                f"model '{name_or_path}' is not on this machine yet",
                code="E410",
                hint=f"run: vortex-search models fetch {name_or_path}",
            )
        if name_or_path in PACKAGED:
            return load_gguf(path, name=name_or_path)
        base = load_model(DERIVED[name_or_path])
        factors, digest = read_factors(path, base.spec)
        return FactoredMla(base, factors, name=name_or_path, digest=digest)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return load_folder(path)
    if path.is_file():
        return load_gguf(path)
    raise VortexError(
        f"no model '{name_or_path}' can be run here",
        code="E411",
        hint=f"known: {', '.join(NAMES)}; or a .gguf file, or a checkpoint folder",
    )
