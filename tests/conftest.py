"""What all tests share: how kernels run, one thread for torch, the real model where asked for."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

# Triton reads this when a kernel is defined: it must be there before any module of ours is.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from evals.models.fetch import fetch
from evals.models.load import load_model
from evals.models.transformer import Transformer

torch.set_num_threads(1)
if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    from tests.interpreter import hasten

    hasten()


@pytest.fixture(scope="session")
def model() -> Transformer:
    """SmolLM2-135M-Instruct, fetched once into the cache."""
    fetch("smollm2-135m")
    return load_model("smollm2-135m")
