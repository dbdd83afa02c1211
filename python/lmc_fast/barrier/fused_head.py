"""ReLU networks on CUDA: output layer, cross-entropy and argmax of many points in one kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lmc_fast._cuda.interpolation_grid import (
    MAX_ANCHORS,
    MAX_POINTS,
    head_cross_entropy,
    mixed_cross_entropy,
)
from lmc_fast._cuda.launcher import Launcher, launcher_or_none
from lmc_fast.barrier.chain import LinearStep, is_relu
from lmc_fast.barrier.layered import LayeredEvaluator
from lmc_fast.barrier.losses import Loss, Scores, make_loss
from lmc_fast.barrier.normalise import Correction
from lmc_fast.barrier.points import Points, StateDict
from lmc_fast.data import Batch


class FusedHeadEvaluator:
    """Cross-entropy of every point of a multilayer perceptron of any depth, logits never stored.

    All but the last layer are the layered evaluator's; its slices hold the memory limit.
    """

    def __init__(self, layered: LayeredEvaluator, launcher: Launcher) -> None:
        self._layered = layered
        self._launcher = launcher
        self.group_examples = layered.group_examples
        self.group_bytes = layered.group_bytes
        self._rectify = is_relu(layered.chain.steps[-2])

    def scores(self, group: Sequence[Batch]) -> Iterator[tuple[slice, Scores]]:
        """Yield slices of points and their scores, block by block of the examples."""
        if _labels(group) is None:
            yield from self._layered.scores(group)
            return
        for rows, part, targets in self._layered.blocks(group):
            labels = targets.long()
            status = torch.zeros(1, dtype=torch.int32, device=labels.device)
            loss, wrong = head_cross_entropy(
                self._layered.activations(rows, part, rectified=not self._rectify),
                *self._layered.head(part),
                labels,
                status,
                rectify=self._rectify,
                launcher=self._launcher,
            )
            yield part, Scores(loss, wrong, (labels != -100).double(), invalid=status != 0)


class FusedNetworkEvaluator:
    """Cross-entropy of every point of a two-layer ReLU network between two or three networks.

    The first layer is evaluated once for each network; mixed activations are never stored. Memory:
    those pre-activations, in three eighths of ``max_memory``, the loss and error of each example at
    as many points as another three leave room for, and a group of batches.
    """

    def __init__(
        self, layered: LayeredEvaluator, points: Points, max_memory: int, launcher: Launcher
    ) -> None:
        self._layered = layered
        self._launcher = launcher
        self._room = max_memory * 3 // 8
        self.group_examples = layered.group_examples
        self.group_bytes = layered.group_bytes
        first, last = layered.chain.linears
        used = sorted(set(points.index.flat))
        anchors = [points.anchors[i] for i in used]
        if len(anchors) == 1:
            anchors = anchors * 2
        self._first = [_linear(anchor, first) for anchor in anchors]
        zeros = int(layered.chain.prepends_zero)
        last_layers = [_linear(anchor, last) for anchor in anchors]
        self._weights = [F.pad(weight, (0, 0, zeros, 0)) for weight, _ in last_layers]
        self._biases = [F.pad(bias, (zeros, 0)) for _, bias in last_layers]
        shares = torch.zeros(len(points), len(anchors), dtype=torch.float64)
        for column, anchor in enumerate(used):
            here = torch.from_numpy((points.weight * (points.index == anchor)).sum(1))
            shares[:, column] = here
        self._shares = shares.to(self._weights[0].device, torch.float32)

    def scores(self, group: Sequence[Batch]) -> Iterator[tuple[slice, Scores]]:
        """Yield slices of points and their scores, block by block of the examples."""
        targets = _labels(group)
        if targets is None:
            yield from self._layered.scores(group)
            return
        given = [self._layered.chain.head(batch.inputs) for batch in group]
        inputs = given[0] if len(given) == 1 else torch.cat(given)
        example_bytes = 4 * sum(len(bias) for _, bias in self._first)
        examples = max(1, min(len(inputs), self._room // example_bytes))
        step = min(MAX_POINTS, max(1, self._room // (16 * examples)))
        for first in range(0, len(inputs), examples):
            block = slice(first, first + examples)
            hidden = [torch.addmm(bias, inputs[block], weight.T) for weight, bias in self._first]
            labels = targets[block].long()
            status = torch.zeros(1, dtype=torch.int32, device=labels.device)
            weight = (labels != -100).double()
            for start in range(0, len(self._shares), step):
                part = slice(start, min(start + step, len(self._shares)))
                loss, wrong = mixed_cross_entropy(
                    hidden,
                    self._weights,
                    self._biases,
                    self._shares[part],
                    labels,
                    status,
                    launcher=self._launcher,
                )
                yield part, Scores(loss, wrong, weight, invalid=status != 0)


def fused_evaluator(
    layered: LayeredEvaluator,
    points: Points,
    corrections: Sequence[Correction],
    loss: Loss,
    max_memory: int,
) -> FusedHeadEvaluator | FusedNetworkEvaluator | None:
    """Return the evaluator where the loss and the device suit it."""
    weight = points.anchors[0][f"{layered.chain.linears[0].name}.weight"]
    if (
        loss != make_loss("cross_entropy")
        or weight.dtype != torch.float32
        or layered.chain.tail is not None
    ):
        return None
    launcher = launcher_of(weight)
    if launcher is None:
        return None
    few = len(set(points.index.flat)) <= MAX_ANCHORS
    if few and not corrections and _is_relu_pair(layered):
        return FusedNetworkEvaluator(layered, points, max_memory, launcher)
    return FusedHeadEvaluator(layered, launcher)


def launcher_of(weight: Tensor) -> Launcher | None:
    """Who runs the kernels on a tensor's device, if anything does."""
    return launcher_or_none(weight.device, "interpolation_grid") if weight.is_cuda else None


def _is_relu_pair(layered: LayeredEvaluator) -> bool:
    steps = layered.chain.steps
    return len(steps) == 3 and len(layered.chain.linears) == 2 and is_relu(steps[1])


def _labels(group: Sequence[Batch]) -> Tensor | None:
    """Return the group's class targets; None where some are of another kind."""
    targets = [batch.targets for batch in group if batch.targets is not None]
    if any(each.is_floating_point() or each.dim() != 1 for each in targets):
        return None
    return targets[0] if len(targets) == 1 else torch.cat(targets)


def _linear(anchor: StateDict, step: LinearStep) -> tuple[Tensor, Tensor]:
    weight = anchor[f"{step.name}.weight"]
    bias = anchor[f"{step.name}.bias"] if step.bias else weight.new_zeros(len(weight))
    return weight, bias
