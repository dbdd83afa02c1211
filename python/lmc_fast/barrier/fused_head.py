"""ReLU networks with one hidden layer on CUDA: mixing, output layer and loss in one kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lmc_fast._cuda.interpolation_grid import MAX_ANCHORS, mixed_cross_entropy
from lmc_fast._cuda.launcher import Launcher, launcher_or_none
from lmc_fast.barrier.chain import Chain, LinearStep, UnitwiseStep
from lmc_fast.barrier.layered import LayeredEvaluator
from lmc_fast.barrier.losses import Loss, Scores, make_loss
from lmc_fast.barrier.normalise import Correction
from lmc_fast.barrier.points import Points, StateDict
from lmc_fast.data import Batch


class FusedHeadEvaluator:
    """Cross-entropy of every point of a two-layer ReLU network between two or three networks.

    The first layer is evaluated once for each network. Memory: those pre-activations, and the loss
    and error of each example at as many points as ``max_memory`` leaves room for.
    """

    group_examples = 1
    group_bytes = 0

    def __init__(
        self,
        layered: LayeredEvaluator,
        points: Points,
        loss: Loss,
        max_memory: int,
        launcher: Launcher,
    ) -> None:
        self._layered = layered
        self._loss = loss
        self._launcher = launcher
        self._max_memory = max_memory
        first, last = layered.chain.linears
        used = sorted(set(points.index.flat))
        anchors = [points.anchors[i] for i in used]
        if len(anchors) == 1:
            anchors = anchors * 2
        self._first = [_linear(anchor, first) for anchor in anchors]
        self._last = [_linear(anchor, last) for anchor in anchors]
        device = self._first[0][0].device
        shares = torch.zeros(len(points), len(anchors), dtype=torch.float64)
        for column, anchor in enumerate(used):
            here = torch.from_numpy((points.weight * (points.index == anchor)).sum(1))
            shares[:, column] = here
        self._shares = shares.to(device, torch.float32)

    def scores(self, group: Sequence[Batch]) -> Iterator[tuple[slice, Scores]]:
        """Yield slices of points and their scores on the only batch of the group."""
        (batch,) = group
        targets = batch.targets
        if targets is None or targets.is_floating_point() or targets.dim() != 1:
            yield from self._layered.scores(group)
            return
        inputs = self._layered.chain.head(batch.inputs)
        hidden = [torch.addmm(bias, inputs, weight.T) for weight, bias in self._first]
        labels = targets.long()
        status = torch.zeros(1, dtype=torch.int32, device=labels.device)
        weight = (labels != -100).double()
        step = max(1, self._max_memory // max(1, 16 * len(labels)))
        for start in range(0, len(self._shares), step):
            part = slice(start, min(start + step, len(self._shares)))
            loss, wrong = mixed_cross_entropy(
                hidden,
                [w for w, _ in self._last],
                [b for _, b in self._last],
                self._shares[part],
                labels,
                status,
                launcher=self._launcher,
            )
            yield part, Scores(loss, wrong, weight, invalid=status != 0)


def fused_head_evaluator(
    layered: LayeredEvaluator,
    points: Points,
    corrections: Sequence[Correction],
    loss: Loss,
    max_memory: int,
) -> FusedHeadEvaluator | None:
    """Return the evaluator where the network, the points, the loss and the device suit it."""
    weight = points.anchors[0][f"{layered.chain.linears[0].name}.weight"]
    if (
        corrections
        or loss != make_loss("cross_entropy")
        or weight.dtype != torch.float32
        or len(set(points.index.flat)) > MAX_ANCHORS
        or not _is_relu_pair(layered.chain)
    ):
        return None
    launcher = launcher_of(weight)
    if launcher is None:
        return None
    return FusedHeadEvaluator(layered, points, loss, max_memory, launcher)


def launcher_of(weight: Tensor) -> Launcher | None:
    """Who runs the kernels on a tensor's device, if anything does."""
    return launcher_or_none(weight.device, "interpolation_grid") if weight.is_cuda else None


def _is_relu_pair(chain: Chain) -> bool:
    kinds = [type(step) for step in chain.steps]
    if (
        kinds != [LinearStep, UnitwiseStep, LinearStep]
        or chain.tail is not None
        or chain.prepends_zero
    ):
        return False
    middle = chain.steps[1]
    return isinstance(middle, UnitwiseStep) and middle.is_relu


def _linear(anchor: StateDict, step: LinearStep) -> tuple[Tensor, Tensor]:
    weight = anchor[f"{step.name}.weight"]
    bias = anchor[f"{step.name}.bias"] if step.bias else weight.new_zeros(len(weight))
    return weight, bias
