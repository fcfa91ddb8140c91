"""Loads the numbers that a program names from safetensors files beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vortex.errors import VortexError
from vortex.ir import MatrixRef, Node, walk

_MAX_ELEMENTS = 64 << 20


def load_all(
    roots: Sequence[Node], files: Path | None
) -> tuple[dict[MatrixRef, MatrixRef], dict[MatrixRef, Tensor]]:
    """Every stored matrix that the graph names.

    Returns:
        Names as written to names that carry a digest, and the numbers by the latter, float32.

    Raises:
        VortexError: E206, a file or tensor is absent, or too large.
    """
    named = {
        value: node.span
        for node in walk(roots)
        for _, value in node.attrs
        if isinstance(value, MatrixRef) and value.file
    }
    loaded, numbers = {}, {}
    for ref in sorted(named):
        try:
            tensor = _read(ref, files)
        except VortexError as error:
            raise error.at(named[ref]) from None
        digest = hashlib.sha256(str(tuple(tensor.shape)).encode() + tensor.numpy().tobytes())
        loaded[ref] = ref._replace(digest=digest.hexdigest()[:24])
        numbers[loaded[ref]] = tensor
    return loaded, numbers


def _read(ref: MatrixRef, files: Path | None) -> Tensor:
    if files is None:
        raise VortexError(
            f"{ref.file} cannot be read here", code="E206",
            hint="stored matrices are looked up beside the program's file",
        )  # fmt: skip
    path = files / ref.file
    try:
        with safe_open(path, framework="pt") as stored:
            names = list(stored.keys())
            if ref.tensor in names:
                found: Tensor = stored.get_tensor(ref.tensor)
                if found.numel() <= _MAX_ELEMENTS:
                    return found.to(torch.float32).contiguous()
                names = [f"(too large: at most {_MAX_ELEMENTS:,} numbers)"]
    except (OSError, SafetensorError) as error:
        raise VortexError(
            f"cannot read {path}: {error}", code="E206", hint="write it with safetensors.torch"
        ) from None
    raise VortexError(
        f"{path} holds no tensor '{ref.tensor}' that can be used", code="E206",
        hint=f"it holds {', '.join(names) or 'nothing'}",
    )  # fmt: skip
