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
from lmc_fast.barrier.layered import layered_evaluator
from lmc_fast.barrier.losses import Loss, Scores
from lmc_fast.barrier.normalise import Correction, calibrate
from lmc_fast.barrier.points import Points, distinct
from lmc_fast.barrier.temperature import best_temperatures
from lmc_fast.data import Batch, Data, batches, count_batches, count_examples, device_of


class Evaluator(Protocol):
    """Scores one batch at all points."""

    def scores(self, batch: Batch) -> Iterator[tuple[slice, Scores]]:
        """Yield slices of points and their scores, for each point its examples in order."""
        ...


@dataclass(frozen=True)
class ExampleLosses:
    """Losses and errors of N single examples at K points.

    Attributes
    ----------
    loss, error
        Shape (K, N), float64: sums over the terms of an example; ``error`` may be None.
    weight
        Shape (N,), float64: how many terms an example has, 1 for plain classification.
    """

    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None
    weight: NDArray[np.float64]

    def at(self, points: slice | NDArray[np.int64]) -> ExampleLosses:
        """Return the part that belongs to some of the points."""
        error = None if self.error is None else self.error[points]
        return ExampleLosses(self.loss[points], error, self.weight)


@dataclass(frozen=True)
class Evaluation:
    """What the engine measured at K points.

    Attributes
    ----------
    loss, error
        Shape (K,), float64 means; ``error`` is None without class targets.
    examples
        How many examples the data held.
    temperature, calibrated_loss
        Shape (K,): the best softmax temperature and the loss there, where asked for.
    example_losses
        Where asked for.
    """

    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None
    examples: int
    temperature: NDArray[np.float64] | None = None
    calibrated_loss: NDArray[np.float64] | None = None
    example_losses: ExampleLosses | None = None


def evaluate(
    model: nn.Module,
    points: Points,
    data: Data,
    loss: Loss,
    *,
    norm: str,
    calibration: Data | None,
    per_example: bool,
    max_memory: int,
    progress: bool,
) -> Evaluation:
    """Evaluate ``loss`` at every point in one pass over ``data``.

    Equal points are evaluated once. The model's own weights, buffers and mode are untouched, also
    after an interruption; no gradient is recorded.

    Parameters
    ----------
    model
        Supplies the architecture; it runs in evaluation mode.
    norm, calibration
        See `lmc_fast.barrier.normalise`; ``calibration`` is ``data`` where it is None.
    per_example
        Keep the loss of every example at every point.
    max_memory
        Bytes that weights and activations formed in advance may take.
    """
    if max_memory < 1:
        raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory}")
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
        evaluator: Evaluator | None = None
        total = _Total(len(unique), per_example)
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
            if evaluator is None:
                evaluator = make_evaluator(model, unique, corrections, loss, max_memory, batch)
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
    batch: Batch,
) -> Evaluator:
    """Choose how the points are evaluated, given the first batch: the one place that decides."""
    return layered_evaluator(
        model, points, corrections, loss, max_memory, batch
    ) or FunctionalEvaluator(model, points, corrections, loss, max_memory)


class _Total:
    """Running sums over batches, in float64."""

    def __init__(self, points: int, per_example: bool) -> None:
        self.examples = 0
        self._loss = np.zeros(points)
        self._error: NDArray[np.float64] | None = np.zeros(points)
        self._weight = np.zeros(points)
        self._tempered: NDArray[np.float64] | None = None
        self._parts: list[list[Scores]] | None = (
            [[] for _ in range(points)] if per_example else None
        )

    def add(self, part: slice, scores: Scores) -> None:
        self._loss[part] += scores.loss.sum(1).cpu().numpy()
        self._weight[part] += float(scores.weight.sum())
        if scores.error is None:
            self._error = None
        elif self._error is not None:
            self._error[part] += scores.error.sum(1).cpu().numpy()
        if scores.tempered is not None:
            sums = scores.tempered.cpu().numpy()
            if self._tempered is None:
                self._tempered = np.zeros((len(self._loss), *sums.shape[1:]))
            self._tempered[part] += sums
        if self._parts is not None:
            for k in range(part.start, part.stop):
                self._parts[k].append(_row(scores, k - part.start))

    def result(self, inverse: NDArray[np.int64]) -> Evaluation:
        if not self._weight.all():
            raise ValueError("data holds no term to average over: every target is ignored")
        temperature = calibrated = None
        if self._tempered is not None:
            temperature, calibrated = best_temperatures(
                self._tempered / self._weight[:, None, None]
            )
        return Evaluation(
            loss=(self._loss / self._weight)[inverse],
            error=None if self._error is None else (self._error / self._weight)[inverse],
            examples=self.examples,
            temperature=None if temperature is None else temperature[inverse],
            calibrated_loss=None if calibrated is None else calibrated[inverse],
            example_losses=None if self._parts is None else _joined(self._parts).at(inverse),
        )


def _row(scores: Scores, k: int) -> Scores:
    error = None if scores.error is None else scores.error[k].cpu()
    return Scores(scores.loss[k].cpu(), error, scores.weight.cpu())


def _joined(parts: Sequence[Sequence[Scores]]) -> ExampleLosses:
    loss = np.stack([torch.cat([s.loss for s in row]).numpy() for row in parts])
    error = None
    if all(s.error is not None for s in parts[0]):
        error = np.stack(
            [torch.cat([s.error for s in row if s.error is not None]).numpy() for row in parts]
        )
    return ExampleLosses(loss, error, torch.cat([s.weight for s in parts[0]]).numpy())
