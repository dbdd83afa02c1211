"""Statistics of interpolated networks: BatchNorm reset and REPAIR.

- ``keep``: the BatchNorm statistics are interpolated like every other tensor.
- ``reset``: at every point the BatchNorm statistics become the exact population statistics of the
  calibration set in the interpolated network, each layer fed by the layers already reset.
- ``repair``: as ``reset``, and every unit of a hidden linear or convolutional layer that no
  BatchNorm follows is rescaled and shifted so that the mean and standard deviation of its
  pre-activation are the interpolation of those in the networks interpolated
  (Jordan et al. 2022, "REPAIR: REnormalizing Permuted Activations for Interpolation Repair").
  The two numbers per unit are folded into the layer's weights and bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmc_fast.barrier.forward import call_with
from lmc_fast.barrier.moments import (
    Layer,
    Moments,
    layers_to_normalise,
    moments_up_to,
    output_moments,
    removing,
    unit_moments,
)
from lmc_fast.barrier.points import Points, StateDict
from lmc_fast.data import Data, batches, count_examples, device_of
from lmc_fast.progress import progress_bar

NORMS = ("keep", "reset", "repair")


@dataclass(frozen=True)
class Correction:
    """What normalisation changes at one point.

    Attributes
    ----------
    buffers
        New BatchNorm statistics by state dict name.
    affine
        By module name, the scale and shift of each unit's pre-activation.
    """

    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    affine: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def applied(self, state: StateDict) -> dict[str, Tensor]:
        """Return ``state`` with the statistics replaced and the affine maps folded in."""
        corrected = {**state, **self.buffers}
        for name, (scale, shift) in self.affine.items():
            weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
            unit_scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
            corrected[f"{name}.weight"] = (weight * unit_scale).to(weight.dtype)
            corrected[f"{name}.bias"] = (bias * scale + shift).to(bias.dtype)
        return corrected


def calibrate(
    model: nn.Module,
    points: Points,
    calibration: Data,
    *,
    norm: str,
    max_memory: int,
    progress: bool = False,
) -> list[Correction]:
    """Return the correction of every point, in exact statistics of the whole calibration set.

    Where the activations of the set fit into ``max_memory`` bytes each point takes one forward
    pass over it; else one truncated pass per normalised layer, with the same result up to
    rounding. The inputs of the set are kept in memory meanwhile.

    Raises
    ------
    ValueError
        If there is nothing to normalise, if a normalised module is called more than once in a
        forward pass, or if ``repair`` finds a layer without the bias that would take the shift.
    """
    inputs = [batch.inputs for batch in batches(calibration, device=device_of(model))]
    layers, example_bytes = layers_to_normalise(
        model, points.anchors[0], inputs[0], rescale=norm == "repair"
    )
    if not layers:
        raise ValueError(f'norm="{norm}" finds no layer to normalise in this model')
    if sum(map(count_examples, inputs)) * example_bytes <= max_memory:
        inputs = [_concatenated(inputs)]
    rescaled = [layer for layer in layers if layer.rescaled]
    anchors = {
        i: output_moments(model, points.anchors[i], inputs, rescaled)
        for i in np.unique(points.index)
    }
    corrections = []
    for k in progress_bar(range(len(points)), show=progress, unit="point", desc=norm):
        used = np.flatnonzero(points.weight[k])
        shares = [(anchors[points.index[k, j]], float(points.weight[k, j])) for j in used]
        settle = _settle_at_once if len(inputs) == 1 else _settle_in_turn
        corrections.append(
            settle(
                model,
                points.state(k),
                inputs,
                # A network itself has the statistics that it is to have.
                layers if used.size > 1 else [layer for layer in layers if not layer.rescaled],
                {layer.name: _wanted(shares, layer.name) for layer in rescaled},
            )
        )
    return corrections


def _wanted(
    shares: Sequence[tuple[Mapping[str, Moments], float]], name: str
) -> tuple[Tensor, Tensor]:
    """Return the interpolated mean and standard deviation of a layer's units."""
    means = torch.stack([share * moments[name].mean for moments, share in shares])
    deviations = torch.stack([share * moments[name].variance.sqrt() for moments, share in shares])
    return means.sum(0), deviations.sum(0)


def _affine(found: Moments, wanted: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the scale and shift that give units the wanted moments; constant units only shift."""
    mean, deviation = wanted
    varies = found.variance > 0
    scale = torch.where(varies, deviation / found.variance.where(varies, 1.0).sqrt(), 1.0)
    return scale, mean - scale * found.mean


def _settle_at_once(
    model: nn.Module,
    state: StateDict,
    inputs: Sequence[Any],
    layers: Sequence[Layer],
    wanted: Mapping[str, tuple[Tensor, Tensor]],
) -> Correction:
    """Settle all layers in one pass over the whole set, each as the pass reaches it."""
    affine: dict[str, tuple[Tensor, Tensor]] = {}
    buffers = {
        name: state[name].clone()
        for layer in layers
        if not layer.rescaled
        for name in _statistics(layer)
    }

    def reset(module: nn.Module, args: Any) -> None:
        found = unit_moments(args[0], 1)
        # Within the functional call these are the clones above.
        module.running_mean.copy_(found.mean)  # type: ignore[operator]
        module.running_var.copy_(found.variance)  # type: ignore[operator]

    def rescale(layer: Layer) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            scale, shift = _affine(unit_moments(output, layer.axis), wanted[layer.name])
            affine[layer.name] = (scale, shift)
            shape = [1] * output.dim()
            shape[layer.axis] = -1
            return (output * scale.reshape(shape) + shift.reshape(shape)).to(output.dtype)

        return hook

    handles = [
        layer.module.register_forward_hook(rescale(layer))
        if layer.rescaled
        else layer.module.register_forward_pre_hook(reset)
        for layer in layers
    ]
    with removing(handles):
        call_with(model, {**state, **buffers}, inputs[0])
    return Correction(buffers, affine)


def _settle_in_turn(
    model: nn.Module,
    state: StateDict,
    inputs: Sequence[Any],
    layers: Sequence[Layer],
    wanted: Mapping[str, tuple[Tensor, Tensor]],
) -> Correction:
    """Settle one layer after the other, each in a pass of its own over the parts of the set."""
    buffers: dict[str, Tensor] = {}
    affine: dict[str, tuple[Tensor, Tensor]] = {}
    for layer in layers:
        settled = Correction(buffers, affine).applied(state)
        found = moments_up_to(model, settled, inputs, layer)
        if layer.rescaled:
            affine[layer.name] = _affine(found, wanted[layer.name])
        else:
            mean, variance = _statistics(layer)
            buffers[mean] = found.mean.to(state[mean].dtype)
            buffers[variance] = found.variance.to(state[variance].dtype)
    return Correction(buffers, affine)


def _statistics(layer: Layer) -> tuple[str, str]:
    return f"{layer.name}.running_mean", f"{layer.name}.running_var"


def _concatenated(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {key: _concatenated([part[key] for part in parts]) for key in first}
    return tuple(_concatenated(column) for column in zip(*parts, strict=True))
