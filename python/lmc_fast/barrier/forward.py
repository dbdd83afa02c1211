"""Running a module with given weights, leaving the module as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lmc_fast.barrier.points import StateDict
from lmc_fast.data import call


def call_with(model: nn.Module, state: StateDict, inputs: Any) -> Any:
    """Call ``model`` on one batch's inputs with the weights and buffers of ``state``."""
    return call(
        lambda *args, **kwargs: functional_call(
            model, dict(state), args, kwargs, tie_weights=False, strict=True
        ),
        inputs,
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode, and back into its own mode at the end."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def agree(found: Tensor, wanted: Tensor) -> bool:
    """Return whether two ways to run a network give the same outputs up to rounding."""
    if found.shape != wanted.shape:
        return False
    scale = float(wanted.abs().nan_to_num().max()) if wanted.numel() else 0.0
    return torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)
