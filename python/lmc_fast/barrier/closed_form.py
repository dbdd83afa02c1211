"""Statistics of interpolated networks where a layer is linear in the weights: in closed form.

A layer fed by the same input in every network, as the first one is by the data, has at
``theta = sum_j w_j theta_j`` the pre-activation ``z = sum_j w_j z_j``. Its mean is the same sum of
the networks' means, and its variance the quadratic form ``sum_jk w_j w_k C_jk`` of their
covariances, unit by unit. So no forward pass is needed at any point between the networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lmc_fast.barrier.forward import call_with
from lmc_fast.barrier.moments import Layer, Moments, ReachedError, removing
from lmc_fast.barrier.points import Points, StateDict
from lmc_fast.data import count_examples, take

Pair: TypeAlias = tuple[int, int]

_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PROBED_EXAMPLES = 4


class JointMoments:
    """Means of a layer's units in several networks, and their covariances between networks."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs
        self._count = 0
        self._mean: dict[int, Tensor] = {}
        self._covariance: dict[Pair, Tensor] = {}

    def update(self, values: Mapping[int, Tensor]) -> None:
        """Add observations: for each network its pre-activations (units, observations)."""
        added = next(iter(values.values())).shape[1]
        count = self._count + added
        share = added / count
        mean = {i: z.mean(1, dtype=torch.float64) for i, z in values.items()}
        centred = {i: z - mean[i][:, None].to(z.dtype) for i, z in values.items()}
        before = self._mean or mean
        step = {i: mean[i] - before[i] for i in mean}
        for pair in self._pairs:
            i, j = pair
            found = (centred[i] * centred[j]).mean(1, dtype=torch.float64)
            old = self._covariance.get(pair, torch.zeros_like(found))
            spread = share * (1 - share) * step[i] * step[j]
            self._covariance[pair] = (1 - share) * old + share * found + spread
        self._mean = {i: before[i] + share * step[i] for i in mean}
        self._count = count

    def at(self, networks: Sequence[int], shares: Sequence[float]) -> Moments:
        """Return the moments at the weighted sum of some networks."""
        mixed = list(zip(networks, shares, strict=True))
        mean = torch.stack([share * self._mean[i] for i, share in mixed]).sum(0)
        variance = torch.stack([share**2 * self._covariance[i, i] for i, share in mixed]).sum(0)
        for (i, w), (j, v) in combinations(mixed, 2):
            variance = variance + 2 * w * v * self._covariance[min(i, j), max(i, j)]
        return Moments(self._count, mean, variance.clamp_min(0.0))


def joint_moments(
    model: nn.Module,
    points: Points,
    inputs: Sequence[Any],
    layers: Sequence[Layer],
    *,
    max_memory: int,
) -> dict[str, JointMoments]:
    """Return, by name, the joint moments of the layers that are linear in the weights.

    Takes a pass up to each such layer for every network, in blocks of examples as large as
    ``max_memory`` allows; layers that one example's pre-activations overfill it for are left out.
    """
    used = [int(i) for i in np.unique(points.index)]
    states = {i: points.anchors[i] for i in used}
    probe = take(inputs[0], slice(0, _PROBED_EXAMPLES))
    found = {}
    for layer in layers:
        if layer.source is None or type(layer.source) not in _LINEAR:
            continue
        fed = _input_and_output(model, points.anchors[used[0]], probe, layer.source)
        others = (_input_and_output(model, states[i], probe, layer.source) for i in used[1:])
        if fed is None or any(o is None or not torch.equal(fed[0], o[0]) for o in others):
            continue
        value = fed[1]
        each = 4 * value.element_size() * value.numel() // len(value) * (len(used) + 2)
        examples = max_memory // each
        if examples < 1:
            continue
        moments = JointMoments(_pairs(points))
        for part in inputs:
            for start in range(0, count_examples(part), examples):
                block = take(part, slice(start, start + examples))
                outputs = {
                    i: _input_and_output(model, states[i], block, layer.source) for i in used
                }
                moments.update(
                    {
                        i: both[1].movedim(layer.axis, 0).flatten(1)
                        for i, both in outputs.items()
                        if both is not None
                    }
                )
        found[layer.name] = moments
    return found


def _pairs(points: Points) -> list[Pair]:
    found = {(int(i), int(i)) for i in np.unique(points.index)}
    for row, shares in zip(points.index.tolist(), points.weight, strict=True):
        mixed = sorted({i for i, share in zip(row, shares, strict=True) if share})
        found.update(combinations(mixed, 2))
    return sorted(found)


def _input_and_output(
    model: nn.Module, state: StateDict, inputs: Any, module: nn.Module
) -> tuple[Tensor, Tensor] | None:
    """Return what a layer is given and gives, running the model no further than that."""
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append((args[0], output))
        raise ReachedError

    with removing([module.register_forward_hook(hook)]), suppress(ReachedError):
        call_with(model, state, inputs)
    return seen[0] if seen else None
