"""Guess example inputs of a model from its first layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lmc_fast.symmetry.trace import eval_mode

_SIDES = (32, 28, 224, 64, 16, 8, 299)


def example_inputs_for(model: nn.Module) -> Tensor:
    """Guess an input that a model accepts, from its first layer with weights.

    Parameters
    ----------
    model : torch.nn.Module
        Called on candidates in eval mode; its mode is restored.

    Returns
    -------
    Tensor
        A batch of two examples that the model accepts: features, an image, a sequence or tokens.

    Raises
    ------
    ValueError
        If it accepts none of them.
    """
    parameter = next(model.parameters(), torch.empty(0))
    tried = []
    with eval_mode(model), torch.no_grad():
        for candidate in _candidates(model):
            given = candidate.to(parameter.device)
            if given.is_floating_point():
                given = given.to(parameter.dtype)
            try:
                model(given)
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
                tried.append(tuple(candidate.shape))
            else:
                return given
    raise ValueError(
        f"expected a model that takes one tensor of a usual shape, {type(model).__name__} accepts "
        f"none of {tried[:5]}: pass example_inputs="
    )


def _candidates(model: nn.Module) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield normal(2, module.in_features)
            yield normal(2, 5, module.in_features)
            yield from _images(module.in_features, normal)
            return
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            for side in _SIDES:
                yield normal(2, module.in_channels, *[side] * len(module.kernel_size))
            return
        if isinstance(module, nn.Embedding):
            yield torch.randint(module.num_embeddings, (2, 8), generator=generator)
            return
        if isinstance(module, nn.RNNBase):
            yield normal(2, 5, module.input_size)
            return


def _images(features: int, normal: Any) -> Iterator[Tensor]:
    """Yield the square images that a model may flatten into its first linear layer."""
    for channels in (1, 3):
        side = round((features / channels) ** 0.5)
        if channels * side * side == features:
            yield normal(2, channels, side, side)
