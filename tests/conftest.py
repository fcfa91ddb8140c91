"""What all tests share: one thread for torch, and the real model where a test asks for it."""

from __future__ import annotations

import pytest
import torch

from evals.models.fetch import fetch
from evals.models.load import load_model
from evals.models.transformer import Transformer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model() -> Transformer:
    """SmolLM2-135M-Instruct, fetched once into the cache."""
    fetch("smollm2-135m")
    return load_model("smollm2-135m")
