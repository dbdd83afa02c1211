"""The engine: mean loss and error of many points in weight space, in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from lmc_fast.barrier.forward import evaluation_mode
from lmc_fast.barrier.functional import FunctionalEvaluator
from lmc_fast.barrier.losses import Loss, Scores
from lmc_fast.barrier.normalise import Correction, calibrate
from lmc_fast.barrier.points import Points, distinct
from lmc_fast.data import Batch, Data, batches, count_batches, count_examples, device_of

MAX_MEMORY = 1 << 31


class Evaluator(Protocol):
    """Scores one batch at all points, in slices of consecutive points that cover them in order."""

    def scores(self, batch: Batch) -> Iterator[tuple[slice, Scores]]:
        """Yield slices of points and their scores on the batch."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What the engine measured at K points.

    Attributes
    ----------
    loss, error
        Shape (K,), float64 means; ``error`` is None without class targets.
    examples
        How many examples the data held.
    """

    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None
    examples: int


def evaluate(
    model: nn.Module,
    points: Points,
    data: Data,
    loss: Loss,
    *,
    norm: str = "keep",
    calibration: Data | None = None,
    max_memory: int = MAX_MEMORY,
    progress: bool = False,
) -> Evaluation:
    """Evaluate ``loss`` at every point in one pass over ``data``.

    Equal points are evaluated once. The model's own weights, buffers and mode are untouched, also
    after an interruption; no gradient is recorded.

    Parameters
    ----------
    model
        Supplies the architecture; it runs in evaluation mode.
    norm, calibration
        See `lmc_fast.barrier.normalise`; ``calibration`` is ``data`` by default.
    max_memory
        Bytes that weights and activations formed in advance may take.
    """
    unique, inverse = distinct(points)
    with evaluation_mode(model), torch.no_grad():
        corrections: Sequence[Correction] = ()
        if norm != "keep":
            if calibration is None:
                batches(data, passes=2)
                calibration = data
            corrections = calibrate(
                model, unique, calibration, norm=norm, max_memory=max_memory, progress=progress
            )
        evaluator = make_evaluator(model, unique, corrections, loss, max_memory)
        total = _Total(len(unique))
        bar = tqdm(
            batches(data, device=device_of(model)),
            total=count_batches(data),
            disable=not progress,
            unit="batch",
            desc=f"{len(unique)} points",
        )
        for batch in bar:
            if batch.targets is None:
                raise ValueError("data must be batches of (input, target), got inputs alone")
            total.examples += count_examples(batch.inputs)
            for part, scores in evaluator.scores(batch):
                total.add(part, scores)
    return total.result(inverse)


def make_evaluator(
    model: nn.Module,
    points: Points,
    corrections: Sequence[Correction],
    loss: Loss,
    max_memory: int,
) -> Evaluator:
    """Choose how the points are evaluated: the one place where that is decided."""
    return FunctionalEvaluator(model, points, corrections, loss, max_memory)


class _Total:
    """Running sums over batches, in float64."""

    def __init__(self, points: int) -> None:
        self.examples = 0
        self._loss = np.zeros(points)
        self._error: NDArray[np.float64] | None = np.zeros(points)
        self._weight = np.zeros(points)

    def add(self, part: slice, scores: Scores) -> None:
        self._loss[part] += scores.loss.sum(1).cpu().numpy()
        self._weight[part] += float(scores.weight.sum())
        if scores.error is None:
            self._error = None
        elif self._error is not None:
            self._error[part] += scores.error.sum(1).cpu().numpy()

    def result(self, inverse: NDArray[np.int64]) -> Evaluation:
        if not self._weight.all():
            raise ValueError("data holds no term to average over: every target is ignored")
        error = None if self._error is None else (self._error / self._weight)[inverse]
        return Evaluation((self._loss / self._weight)[inverse], error, self.examples)
