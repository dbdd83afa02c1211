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
from torch.utils._pytree import tree_leaves

from lmc_fast.barrier.closed_form import JointMoments, joint_moments
from lmc_fast.barrier.forward import call_with
from lmc_fast.barrier.memory import forward_bytes, state_bytes, too_little_memory
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
from lmc_fast.data import Data, batches, count_examples, device_of, take
from lmc_fast.progress import progress_bar

_PROBED_EXAMPLES = 4

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

    Layers that are linear in the weights have theirs in closed form, from one pass for each
    network (see `lmc_fast.barrier.closed_form`). For the others, where the activations of the set
    fit into ``max_memory`` bytes each point takes one forward pass over it; else one truncated
    pass per normalised layer, in blocks of examples, with the same result up to rounding: L layers
    cost about L / 2 passes. The inputs of the set are kept in memory meanwhile.

    Raises
    ------
    ValueError
        If there is nothing to normalise, if a normalised module is called more than once in a
        forward pass, if ``repair`` finds a layer without the bias that would take the shift, or
        if one example takes more than ``max_memory``.
    """
    inputs = [batch.inputs for batch in batches(calibration, device=device_of(model))]
    state = points.anchors[0]
    probe = take(inputs[0], slice(0, _PROBED_EXAMPLES))
    layers = layers_to_normalise(model, state, probe, rescale=norm == "repair")
    if not layers:
        raise ValueError(f'norm="{norm}" finds no layer to normalise in this model')
    example_bytes = 2 * -(-forward_bytes(model, state, probe) // count_examples(probe))
    # A point's weights, those with the corrections folded in, and what libraries hold besides.
    room = max_memory * 7 // 8 - 3 * state_bytes(state)
    if example_bytes > room:
        needed = max_memory - room + example_bytes
        raise too_little_memory(max_memory, needed, "one point and one calibration example")
    joint = joint_moments(model, points, inputs, layers, max_memory=room)
    copied = 0 if len(inputs) == 1 else sum(map(_bytes, inputs))
    if sum(map(count_examples, inputs)) * example_bytes + copied <= room:
        inputs = [_concatenated(inputs)]
    else:
        step = room // example_bytes
        inputs = [
            take(part, slice(start, start + step))
            for part in inputs
            for start in range(0, count_examples(part), step)
        ]
    rescaled = [layer for layer in layers if layer.rescaled]
    anchors = {
        i: _anchor_moments(model, points.anchors[i], inputs, rescaled, joint, int(i))
        for i in np.unique(points.index)
    }
    corrections = []
    for k in progress_bar(range(len(points)), show=progress, unit="point", desc=norm):
        used = np.flatnonzero(points.weight[k])
        networks = [int(points.index[k, j]) for j in used]
        shares = [float(points.weight[k, j]) for j in used]
        mixed = [(anchors[i], share) for i, share in zip(networks, shares, strict=True)]
        settle = _settle_at_once if len(inputs) == 1 else _settle_in_turn
        corrections.append(
            settle(
                model,
                points.state(k),
                inputs,
                # A network itself has the statistics that it is to have.
                layers if used.size > 1 else [layer for layer in layers if not layer.rescaled],
                {layer.name: _wanted(mixed, layer.name) for layer in rescaled},
                {name: moments.at(networks, shares) for name, moments in joint.items()},
            )
        )
    return corrections


def _anchor_moments(
    model: nn.Module,
    state: StateDict,
    inputs: Sequence[Any],
    layers: Sequence[Layer],
    joint: Mapping[str, JointMoments],
    index: int,
) -> dict[str, Moments]:
    """Return the moments of the layers' outputs in one of the networks."""
    known = {
        layer.name: joint[layer.name].at([index], [1.0]) for layer in layers if layer.name in joint
    }
    rest = [layer for layer in layers if layer.name not in joint]
    return known | output_moments(model, state, inputs, rest)


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
    known: Mapping[str, Moments],
) -> Correction:
    """Settle all layers in one pass over the whole set, each as the pass reaches it."""
    if all(layer.name in known for layer in layers):
        return _settle_in_turn(model, state, inputs, layers, wanted, known)
    affine: dict[str, tuple[Tensor, Tensor]] = {}
    buffers = {
        name: state[name].clone()
        for layer in layers
        if not layer.rescaled
        for name in _statistics(layer)
    }

    def reset(layer: Layer) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            found = known.get(layer.name) or unit_moments(args[0], 1)
            # Within the functional call these are the clones above.
            module.running_mean.copy_(found.mean)  # type: ignore[operator]
            module.running_var.copy_(found.variance)  # type: ignore[operator]

        return hook

    def rescale(layer: Layer) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            found = known.get(layer.name) or unit_moments(output, layer.axis)
            scale, shift = _affine(found, wanted[layer.name])
            affine[layer.name] = (scale, shift)
            shape = [1] * output.dim()
            shape[layer.axis] = -1
            return (output * scale.reshape(shape) + shift.reshape(shape)).to(output.dtype)

        return hook

    handles = [
        layer.module.register_forward_hook(rescale(layer))
        if layer.rescaled
        else layer.module.register_forward_pre_hook(reset(layer))
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
    known: Mapping[str, Moments],
) -> Correction:
    """Settle one layer after the other, each in a pass of its own over the parts of the set."""
    buffers: dict[str, Tensor] = {}
    affine: dict[str, tuple[Tensor, Tensor]] = {}
    for layer in layers:
        found = known.get(layer.name)
        if found is None:
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


def _bytes(inputs: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(inputs) if isinstance(t, Tensor))


def _concatenated(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {key: _concatenated([part[key] for part in parts]) for key in first}
    return tuple(_concatenated(column) for column in zip(*parts, strict=True))
